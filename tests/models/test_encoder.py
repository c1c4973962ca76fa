"""The encoder's options: BERT's sizes and initialisation; heads and labels must fit."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from regard.errors import RegardError
from regard.models import registry
from regard.models.encoder import PRESETS
from regard.nn.sequences import Tokens


def read(**values: Any) -> Any:
    return registry.options_from({"architecture": "encoder", "preset": "tiny", **values})


@pytest.mark.parametrize(
    ("preset", "count"), [("base", 108_891_648), ("large", 334_092_288)]
)  # published, without the pooler: 109,482,240 - 590,592 and 335,141,888 - 1,049,600
def test_presets_are_berts(preset: str, count: int) -> None:
    assert registry.parameter_count(PRESETS[preset], 30_522) == count


def test_weights_start_as_berts() -> None:
    torch.manual_seed(0)
    model = read(head="masked_words").build(300)
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):
            assert (parameter == 1).all()
        elif name.endswith("bias"):
            assert not parameter.any(), name
        else:
            assert parameter.std().item() == pytest.approx(0.02, rel=5 / math.sqrt(2 * parameter.numel())), name
    assert all(module.eps == 1e-12 for module in model.modules() if isinstance(module, nn.LayerNorm))


@pytest.mark.parametrize("head", ["text_labels", "token_labels", "spans", "masked_words", None])
def test_heads_and_labels_must_fit(head: str | None) -> None:
    wants = head in ("text_labels", "token_labels")
    labels = ["a", "b"] if wants else []
    options = read(head=head, labels=labels)
    assert registry.options_from(registry.to_dict(options)) == options
    options.build(9)
    with pytest.raises(RegardError, match="model: labels has"):
        registry.describe(read(head=head, labels=[] if wants else ["a"]), 9)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"head": "labels"}, "'model.head' is 'labels': no such kind"),
        ({"head": {"kind": "text_labels", "pooling": "last"}}, "'model.head.pooling' is 'last'"),
        ({"segments": -1}, "model: segments=-1 must be at least 0"),
        ({"segments": 10**9}, "'model.segments' is 1000000000: expected at most"),
        ({"positions": {"kind": "learned", "offset": -1}}, "model.positions: offset=-1 must be at least 0"),
        ({"positions": {"kind": "rotary", "scaling": "linear"}}, "model.positions.scaling: "),
        (
            {"positions": {"kind": "rotary", "scaling": {"kind": "linear", "factor": 0.5}}},
            "factor=0.5 must be at least 1",
        ),
        (
            {"positions": {"kind": "rotary", "scaling": {"kind": "llama3", "low_frequency_factor": 4.0}}},
            "low_frequency_factor=4.0 must be more than 0 and less than high_frequency_factor=4.0",
        ),
        ({"labels": "ab"}, "'model.labels' is 'ab'"),
        ({"head": "text_labels", "labels": ["a", "b", "a"]}, "labels has 'a' twice"),
        ({"head": "token_labels", "labels": ["a", ""]}, "labels has '': expected names without"),
        ({"head": "text_labels", "labels": ["a", "b\n"]}, "labels has 'b\\n': expected names without"),
        ({"head": "text_labels", "labels": ["a\0", "b"]}, "labels has 'a\\x00': expected names without"),
        ({"head": "text_labels", "labels": ["a\u2028b", "b"]}, "labels has 'a\\u2028b': expected names without"),
    ],
)
def test_mistakes_are_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(RegardError) as caught:
        registry.describe(read(**values), 9)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_one_vocabulary() -> None:
    with pytest.raises(ValueError, match="one vocabulary"):
        read().build(9, 10)


def test_the_mean_leaves_padding_out_and_takes_an_empty_text() -> None:
    model = read(head={"kind": "text_labels", "pooling": "mean"}, labels=["a", "b"]).build(9).eval()
    target = Tokens(torch.tensor([[3, 4, 5], [3, 4, 8], [7, 7, 7]]), torch.tensor([2, 2, 0]))
    scores = model.label_scores(target)
    torch.testing.assert_close(scores[0], scores[1])
    assert scores.isfinite().all()
