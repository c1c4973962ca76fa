"""Hugging Face's T5 with random weights, read from its folder: logits, greedy and beam outputs, and back again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

import transformers
from hugging import EOS, V, config_for, drawn, lifted, mask_of, opened, sentences, worst
from safetensors.torch import load_file

from regard.accel.prepared import prepare
from regard.decoding.engine import decode
from regard.decoding.search import Search
from regard.interop import published

SIZES: dict[str, Any] = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_heads": 2, "num_layers": 2, "num_decoder_layers": 2,
                         "decoder_start_token_id": 0, "eos_token_id": EOS, "pad_token_id": 0}  # fmt: skip
V11: dict[str, Any] = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
SHAPES: dict[str, dict[str, Any]] = {
    "original": {},
    "v1.1": V11,
    "wide heads": {"d_kv": 11, "num_heads": 3, "num_decoder_layers": 1},
    "v1.1, unequal": {**V11, "d_kv": 5, "num_layers": 1, "num_decoder_layers": 3, "layer_norm_epsilon": 1e-3},
    "few buckets": {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 20},
    "relu with a gate": {"feed_forward_proj": "gated-relu", "d_model": 24},
}
#: One shape with and one without the peculiarities of v1.1 are quick tests.
QUICK = [pytest.param(name, marks=[] if name in ("original", "v1.1") else pytest.mark.slow) for name in SHAPES]


def t5(name: str, seed: int = 0) -> Any:
    theirs = drawn(transformers.T5ForConditionalGeneration(config_for("T5Config", **SIZES | SHAPES[name])), seed)
    if "v1.1" in name:  # as published: a table of its own for the output
        theirs.config.tie_word_embeddings = False
        theirs.lm_head.weight = torch.nn.Parameter(torch.randn_like(theirs.lm_head.weight) / 4)
    return theirs


@pytest.mark.parametrize("name", QUICK)
def test_logits_and_back(name: str, tmp_path: Path) -> None:
    theirs = t5(name)
    loaded = opened(theirs, tmp_path / "theirs")
    assert loaded.task == "translation" and loaded.vocabulary == (V, None)
    longest = 40 if name in ("original", "v1.1") else 512
    source, target = sentences(1, [9, 1, longest, 4]), sentences(2, [3, 7, longest // 2, 1])
    with torch.inference_mode(), lifted():
        expected = theirs(input_ids=source.ids, attention_mask=mask_of(source), decoder_input_ids=target.ids).logits
        got = loaded.model.logits(loaded.model.forward(target, loaded.model.encode(source)).hidden)
        assert worst(got, expected, target.lengths) <= 1e-6
        prepared = prepare(published.load(tmp_path / "theirs").model, torch.float32)
        got = prepared.logits(prepared.forward(target, prepared.encode(source)).hidden)
        assert worst(got.double(), expected, target.lengths) <= 1e-4  # fp32
    _same_files(loaded, tmp_path)
    again = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / "ours", dtype=torch.float64).eval()
    with torch.inference_mode(), lifted():
        back = again(input_ids=source.ids, attention_mask=mask_of(source), decoder_input_ids=target.ids).logits
    assert worst(back, expected, target.lengths) <= 1e-12


def _same_files(loaded: Any, folder: Path) -> None:
    """What we write from what we read holds the same tensors, to the bit."""
    published.write(loaded, folder / "ours")
    theirs, ours = (load_file(folder / name / "model.safetensors") for name in ("theirs", "ours"))
    assert theirs.keys() == ours.keys() and all(torch.equal(theirs[name], ours[name]) for name in ours)


@pytest.mark.parametrize("name", [*QUICK[:2], pytest.param("wide heads", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("beam", "penalty"), [(1, 1.0), (4, 1.0), (3, 0.5)])
def test_outputs(name: str, beam: int, penalty: float, tmp_path: Path) -> None:
    """Theirs one by one, since their limit is one for a batch; ours all at once."""
    theirs = t5(name, seed=3)
    loaded = opened(theirs, tmp_path / "theirs")
    inputs = sentences(4, [1 + number % 9 for number in range(20)])
    sources = [row[:n].tolist() for row, n in zip(inputs.ids, inputs.lengths.tolist(), strict=True)]
    search = Search(beam=beam, length_penalty=f"power:{penalty}", stopping="huggingface", max_extra=8)
    seen = set()
    with lifted():
        for result in decode(loaded.model, sources, loaded.settings, search):
            source = torch.tensor([[*sources[result.index], EOS]])
            beams: dict[str, Any] = {"length_penalty": penalty, "early_stopping": "never"} if beam > 1 else {}
            with torch.inference_mode():
                expected = theirs.generate(
                    source, attention_mask=torch.ones_like(source), num_beams=beam, do_sample=False,
                    max_new_tokens=len(sources[result.index]) + 8, **beams,
                )[0].tolist()[1:]  # fmt: skip
            expected = expected[: expected.index(EOS)] if EOS in expected else expected
            assert result.hypotheses[0].ids == expected
            seen.add(tuple(expected))
    assert len(seen) >= 10 and len({token for ids in seen for token in ids}) >= 8  # weights that say many things
