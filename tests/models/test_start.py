"""The same seed gives the same model as ever: names, shapes, ties, the draws in their order, and what it computes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from regard.models import registry
from regard.nn.sequences import Tokens

SIZES: dict[str, Any] = {"width": 16, "heads": 2, "feedforward": 32}
BOTH: dict[str, Any] = {"encoder_layers": 2, "decoder_layers": 2}
RELATIVE = {"kind": "relative_bias", "buckets": 8, "distance": 16}

# options, vocabulary (and the target's)
MODELS: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "transformer": ({**SIZES, **BOTH}, (29,)),
    "transformer tiny": ({"preset": "tiny"}, (101,)),
    "transformer pre": ({**SIZES, **BOTH, "order": "pre", "norm": "rms_norm", "positions": "learned", "gated": True,
                         "bias": False}, (29,)),
    "transformer target": ({**SIZES, **BOTH, "positions": RELATIVE, "share": "target", "output_bias": True}, (29, 31)),
    "transformer none": ({**SIZES, **BOTH, "positions": "rotary", "share": "none", "scale_embedding": False,
                          "final_norm": True}, (29, 31)),
    "rnn": ({"width": 16, **BOTH}, (29,)),
    "rnn none": ({"preset": "tiny", "share": "none"}, (29, 33)),
    "decoder": ({**SIZES, "layers": 2, "key_value_heads": 1}, (29,)),
    "decoder tiny": ({"preset": "tiny"}, (99,)),
    "decoder none": ({**SIZES, "layers": 2, "tied": False, "positions": "sinusoidal", "scale_embedding": True,
                      "order": "post", "norm": "rms_norm", "gated": True}, (29,)),
}  # fmt: skip
STARTS = Path(__file__).parent / "starts.json"


def start(name: str) -> dict[str, Any]:
    """Ties; each tensor's shape, first number, sum and norm; a draw after it all; the norm of some logits."""
    options, sizes = MODELS[name]
    torch.manual_seed(7)
    model = registry.options_from({"architecture": name.split()[0], **options}).build(*sizes)
    tensors = {
        key: [list(x.shape), float(x.flatten()[0]), float(x.double().sum()), float(x.double().norm())]
        for key, x in model.state_dict().items()
    }
    following = float(torch.rand(()))
    ids = Tokens(torch.arange(4, 24).view(2, 10), torch.tensor([10, 7]))
    with torch.inference_mode():
        hidden = model.eval()(ids, model.encode(ids) if model.has_source else None).hidden
        logits = float(model.logits(hidden)[ids.ids < 21].norm())  # of what is no padding
    return {"ties": model.ties, "tensors": tensors, "next": following, "logits": logits}


@pytest.mark.parametrize("name", list(MODELS))
def test_a_model_starts_as_ever(name: str) -> None:
    expected, found = json.loads(STARTS.read_text(encoding="utf-8"))[name], start(name)
    assert found["ties"] == expected["ties"] and found["next"] == expected["next"]
    assert found["logits"] == pytest.approx(expected["logits"], rel=1e-4)
    assert list(found["tensors"]) == list(expected["tensors"])
    for key, (shape, *numbers) in expected["tensors"].items():
        assert found["tensors"][key][0] == shape, key
        # Processors round a normal draw differently.
        assert found["tensors"][key][1:] == pytest.approx(numbers, rel=1e-4, abs=1e-4), key
