"""Every model as it is prepared for decoding: the whole pass, in all precisions."""

from __future__ import annotations

import pytest
import torch
from thin import GENERATING, MODELS, V, build, close, memory_of, one, oracle, prepared, sentences
from torch import Tensor, nn

from regard.accel import int8, native
from regard.accel.linear import available
from regard.accel.stack import CompiledStack
from regard.decoding.engine import decode
from regard.decoding.scoring import forced_scores
from regard.decoding.search import Search
from regard.text.settings import TextSettings

LENGTHS, SOURCES = [3, 7, 1, 5], [6, 2, 4, 1]
SETTINGS = TextSettings(suppressed=(0, 2))
#: How far a hidden state may be off: weights are drawn wide, so that each rounding of a number counts.
NARROW = {torch.bfloat16: 0.1, torch.int8: 0.3}
#: Architectures whose layers the native stack does not compute: a prepared model calls their modules, as it does where
#: the attention has a scale of its own.
BY_MODULES = {"rnn"}


@pytest.fixture(params=list(NARROW), ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    found: torch.dtype = request.param
    if not (int8.available() if found == torch.int8 else available(found)):
        pytest.skip("this processor or PyTorch does not multiply so")
    return found


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.inference_mode():
        yield


def whole(model: nn.Module) -> list[Tensor]:
    """The hidden states of each sentence of a padded batch."""
    hidden = model(sentences(LENGTHS), memory_of(model, SOURCES)).hidden.float()
    return [hidden[b, :length] for b, length in enumerate(LENGTHS)]


def test_the_whole_pass(generating: str) -> None:
    model = prepared(generating)
    for got, expected in zip(whole(model), whole(oracle(model)), strict=True):
        close(got, expected)
    logits = model.logits(torch.randn(3, 2, model.width))
    assert logits.shape == (3, 2, V)


def test_the_whole_pass_in_fewer_bits(generating: str, dtype: torch.dtype) -> None:
    model = prepared(generating, dtype)
    got, expected = torch.cat(whole(model)), torch.cat(whole(oracle(model)))
    error = (got - expected).square().mean().sqrt() / expected.square().mean().sqrt()
    assert 0 < error < NARROW[dtype]


def test_a_beams_score_is_nearly_the_forced_score_in_fewer_bits(generating: str, dtype: torch.dtype) -> None:
    model = prepared(generating, dtype)
    tokens = sentences(SOURCES, seed=5)
    ids = [one(tokens, b).ids[0].tolist() for b in range(len(SOURCES))]
    sources, prompts = (ids, None) if model.has_source else (None, ids)
    results = list(decode(model, sources, SETTINGS, Search(beam=3, max_extra=8), prompts=prompts))
    best = [result.hypotheses[0] for result in results]
    forced = forced_scores(model, sources, [one.ids for one in best], SETTINGS, prompts=prompts)
    for hypothesis, scored in zip(best, forced, strict=True):
        # Cached keys and values are in bf16.
        assert hypothesis.score == pytest.approx(scored.score, rel=0.05, abs=0.2)


def by_modules(name: str) -> bool:
    return MODELS[name]["architecture"] in BY_MODULES or "scale" in MODELS[name]


@pytest.mark.skipif(native.library() is None, reason="there is no C compiler here")
@pytest.mark.parametrize("name", [name for name in GENERATING if name.endswith("heads of 16") or by_modules(name)])
def test_the_suite_meets_the_compiled_stack(name: str) -> None:
    assert (type(prepared(name).decoder) is CompiledStack) != by_modules(name)


def test_nothing_is_replaced_in_fp64(generating: str) -> None:
    """Native kernels do not know this type."""
    model = prepared(generating, torch.float64)
    assert model.native is None and model.output_layer is None
    exact = build(generating)
    for got, expected in zip(whole(model), whole(exact), strict=True):
        assert torch.equal(got, expected)
