"""A compiled stack computes what its stack does, in every arrangement, at once and step by step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kinds import compiled, on_processors
from torch import Tensor

from regard.accel import native
from regard.accel.linear import multiplies_bf16
from regard.accel.prepared import prepare, quantize
from regard.accel.stack import CompiledStack
from regard.models.decoder import DecoderOnly
from regard.models.transformer import Transformer
from regard.nn.norm import LayerNorm, RMSNorm
from regard.nn.positions import Learned, RelativeBias, Rotary, Sinusoidal
from regard.nn.sequences import Memory, Tokens

torch.set_num_threads(1)
ARRANGEMENTS: dict[str, dict[str, Any]] = {
    "the paper's": {},
    "pre-norm": {"order": "pre", "activation": "gelu"},
    "LLaMA's": {
        "norm": RMSNorm(), "order": "pre", "gated": True, "activation": "silu", "bias": False, "positions": Rotary(),
    },
    "T5's": {"norm": RMSNorm(), "order": "pre", "bias": False, "positions": RelativeBias()},
    "post-norm, and a norm at the end": {
        "norm": LayerNorm(bias=False), "final_norm": True, "activation": "gelu_tanh", "positions": Learned(128),
    },
}  # fmt: skip
arranged = pytest.mark.parametrize("arrangement", list(ARRANGEMENTS))


def random(model: Any) -> Any:
    """With biases, gains and relative biases that are not what they are at first."""
    for parameter in model.parameters():
        if parameter.dim() == 1 or len(parameter) == RelativeBias().buckets:
            torch.nn.init.normal_(parameter, 0.5, 0.5)
    return model.eval()


def transformer(arrangement: str, heads: int = 4, **options: Any) -> Any:
    torch.manual_seed(0)
    given = {"positions": Sinusoidal(), **ARRANGEMENTS[arrangement], **options}
    built = Transformer(width=64, heads=heads, feedforward=96, encoder_layers=2, decoder_layers=3, **given).build(70)
    return random(built)


def prepared_by(model: Any, kernels: native.Native) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "library", lambda: kernels)
        return prepare(model)


def tokens(*lengths: int) -> Tokens:
    return Tokens(torch.randint(4, 70, (len(lengths), max(lengths))), torch.tensor(lengths))


def same(one: Tensor, other: Tensor) -> None:
    # Sums of up to 96 products in another order, in five layers.
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@on_processors
@arranged
@torch.inference_mode()
def test_all_tokens_at_once(kernels: native.Native, arrangement: str) -> None:
    own = transformer(arrangement)
    prepared = prepared_by(own, kernels)
    assert type(prepared.encoder) is type(prepared.decoder) is CompiledStack
    source, target = tokens(9, 3, 7, 1, 120), tokens(6, 3, 6, 1, 5)
    one, other = (model(target, model.encode(source)).hidden for model in (own, prepared))
    for b, length in enumerate(target.lengths):
        same(other[b, :length], one[b, :length])


@on_processors
@arranged
@pytest.mark.parametrize("beams", [1, 3])
@torch.inference_mode()
def test_step_by_step(kernels: native.Native, arrangement: str, beams: int) -> None:
    """Prompts of different lengths, beams that reorder, sentences that leave."""
    models = (own := transformer(arrangement)), prepared_by(own, kernels)
    source, prompt = tokens(9, 3, 7), tokens(4, 1, 2)
    states = [model.start(model.encode(source), beams, 30, 3) for model in models]
    one, other = (model.step(prompt.ids, state, prompt.lengths) for model, state in zip(models, states, strict=True))
    for b, length in enumerate(prompt.lengths):
        same(other[b, :length], one[b, :length])
    batch = 3
    for number in range(12):
        new, parents = torch.randint(4, 70, (batch, beams)), torch.randint(beams, (batch, beams))
        one, other = (model.step(new, state) for model, state in zip(models, states, strict=True))
        same(other, one)
        for state in states:
            state.follow(parents)
            if number == 6:
                state.keep(torch.tensor([0, 2]))
        batch = 2 if number >= 6 else 3


@on_processors
@torch.inference_mode()
def test_hypotheses_without_a_future_are_left_out(kernels: native.Native) -> None:
    """The others get the same bits, and where sentences have left whole blocks of rows are not there."""
    prepared = prepared_by(transformer("pre-norm"), kernels)
    source, start = tokens(*[7, 3, 9] * 30), torch.ones(90, 1, dtype=torch.int64)
    states = [prepared.start(prepared.encode(source), 2, 30, 90) for _ in range(2)]
    for state in states:
        prepared.step(start, state, torch.ones(90, dtype=torch.int64))
    alive = torch.ones(90, 2, dtype=torch.bool)
    for _ in range(6):
        alive &= torch.rand(90, 1) < 0.8  # a whole sentence
        alive &= torch.rand(90, 2) < 0.9
        live, new = alive.flatten().nonzero()[:, 0], torch.randint(4, 70, (90, 2))
        one = prepared.step(new, states[0]).flatten(0, 1)
        other = prepared.step(new, states[1], live=live).flatten(0, 1)
        assert torch.equal(one[live], other[live])


@compiled
@torch.inference_mode()
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_decoder_alone_whose_heads_share_keys(groups: int) -> None:
    torch.manual_seed(0)
    own = random(DecoderOnly(width=64, heads=4, key_value_heads=groups, feedforward=96, layers=2).build(70))
    models = own, prepare(own)
    assert type(models[1].decoder) is CompiledStack
    text = tokens(9, 3, 7)
    one, other = (model(text).hidden for model in models)
    for b, length in enumerate(text.lengths):
        same(other[b, :length], one[b, :length])
    states = [model.start(None, 1, 30, 3) for model in models]
    for model, state in zip(models, states, strict=True):
        model.step(text.ids, state, text.lengths)
    one, other = (model.step(text.ids[:, :1], state) for model, state in zip(models, states, strict=True))
    same(other, one)


@compiled
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
@torch.inference_mode()
@settings(max_examples=20)
@given(lengths=st.lists(st.integers(1, 50), min_size=2, max_size=8), seed=st.integers(0, 99))
def test_a_sentence_gets_the_same_bits_alone_and_among_others(precision: str, lengths: list[int], seed: int) -> None:
    model = transformer("pre-norm")
    if precision == "int8":
        model = quantize(model)
    elif precision == "bf16":
        if not multiplies_bf16():
            pytest.skip("this processor does not multiply bf16")
        model.bfloat16()
    prepared = prepare(model)
    torch.manual_seed(seed)
    source, target = tokens(*lengths), tokens(*[5] * len(lengths))
    together = prepared.encode(source).hidden
    decoded = prepared(target, Memory(together, source.lengths)).hidden
    for b, length in enumerate(lengths):
        alone = prepared.encode(Tokens(source.ids[b : b + 1, :length], source.lengths[b : b + 1]))
        assert torch.equal(alone.hidden[0], together[b, :length])
        assert torch.equal(prepared(Tokens(target.ids[b : b + 1], target.lengths[:1]), alone).hidden[0], decoded[b])


@compiled
@torch.inference_mode()
def test_heads_that_do_not_fill_registers_go_the_usual_way() -> None:
    own = transformer("the paper's", heads=8)  # heads 8 wide
    prepared = prepare(own)
    assert CompiledStack not in {type(module) for module in prepared.modules()} and prepared.cache_dtype is None
    source = tokens(9, 3)
    same(prepared.encode(source).hidden, own.encode(source).hidden)
