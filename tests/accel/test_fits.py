"""Unknown means refused: a stack that the native kernels do not compute is decoded module by module, and exactly so."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from kinds import compiled
from torch import Tensor, nn

from regard.accel.fits import computes
from regard.accel.prepared import prepare
from regard.accel.stack import CompiledStack, fits
from regard.models.transformer import Transformer
from regard.nn.feedforward import FeedForward, PositionWise
from regard.nn.layers import TransformerLayer
from regard.nn.layout import Layout
from regard.nn.multihead import Attention, Core, MultiHeadAttention
from regard.nn.norm import LayerNorm, RMSNorm, RootMeanSquareNorm
from regard.nn.positions import RelativeBias, Rotary
from regard.nn.residual import Residual
from regard.nn.rotary import RotaryPositions
from regard.nn.sequences import Tokens
from regard.nn.stacks import TransformerStack

torch.set_num_threads(1)
LLAMA = "LLaMA's"
ARRANGEMENTS: dict[str, dict[str, Any]] = {
    "the paper's": {},
    "pre-norm": {"order": "pre"},
    LLAMA: {
        "norm": RMSNorm(), "order": "pre", "gated": True, "activation": "silu", "bias": False, "positions": Rotary(),
    },
    "T5's": {"norm": RMSNorm(), "order": "pre", "bias": False, "positions": RelativeBias()},
}  # fmt: skip


def transformer(arrangement: str) -> Any:
    torch.manual_seed(0)
    options = {"width": 64, "heads": 4, "feedforward": 96, "encoder_layers": 2, "decoder_layers": 1}
    return Transformer(**options, **ARRANGEMENTS[arrangement]).build(70).eval()


def tokens(*lengths: int) -> Tokens:
    return Tokens(torch.randint(4, 70, (len(lengths), max(lengths))), torch.tensor(lengths))


def same(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Newer(Attention):
    """The spec of attention as it may be one day."""

    slope: float = 1.0


@dataclasses.dataclass(frozen=True)
class Made:
    parts: tuple[int, ...]
    more: list[int] = dataclasses.field(default_factory=list)


def test_a_field_that_is_not_named_must_have_its_default() -> None:
    known = "heads", "key_value_heads", "bias", "dropout"
    assert computes(Attention(heads=4, bias=False), Attention, *known)
    assert not computes(Attention(heads=4, bias=False), Attention, "heads")
    assert not computes(Attention(heads=4), Attention, "bias"), "heads have no default"
    assert computes(Newer(heads=4), Newer, *known)
    assert not computes(Newer(heads=4, slope=0.5), Newer, *known) and not computes(
        Newer(heads=4, window=8), Newer, *known
    )
    assert not computes(Newer(heads=4), Attention, *known), "a subclass may mean anything"
    assert not computes(None, Attention, *known)
    assert computes(Made((1,)), Made, "parts") and not computes(Made((1,), [2]), Made, "parts")


def test_a_name_that_is_no_field_is_a_mistake() -> None:
    with pytest.raises(AssertionError, match="slope"):
        computes(Attention(heads=4), Attention, "heads", "slope")


class QueryKeyNorm(MultiHeadAttention):
    def _project(self, *args: Any) -> Any:
        query, key, value = super()._project(*args)
        return nn.functional.normalize(query, dim=-1), nn.functional.normalize(key, dim=-1), value


class Unscaled(Core):
    def forward(self, *args: Any, **options: Any) -> Tensor:
        return super().forward(*args, **{**options, "scale": 1.0})


class GemmaNorm(RootMeanSquareNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x


class ShiftedNorm(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1


class Half(Residual):
    def forward(self, x: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        return super().forward(x, lambda y: sublayer(y) / 2)


class Squared(PositionWise):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).square()


class Slow(RotaryPositions):
    def forward(self, *args: Any) -> Any:
        turned = super().forward(*args)
        return dataclasses.replace(turned, sine=-turned.sine)


class Parallel(TransformerLayer):
    def forward(self, x: Tensor, layout: Layout, **options: Any) -> Tensor:
        return super().forward(x, layout, **options) + x


class Summed(TransformerStack):
    def forward(self, x: Tensor, layout: Layout, **options: Any) -> Tensor:
        return super().forward(x, layout, **options) + x


class Change(NamedTuple):
    """What is done to one module of an encoder."""

    path: str
    do: Callable[[Any], None]
    arrangement: str = "the paper's"


OF_ATTENTION: dict[str, dict[str, Any]] = {
    "a query/key norm": {"query_key_norm": RMSNorm()},
    "a scale of 1": {"scale": 1.0},
    "a window": {"window": 3},
}


@compiled
@pytest.mark.parametrize("field", list(OF_ATTENTION))
@torch.inference_mode()
def test_fields_of_attention_that_the_kernels_do_not_know(field: str) -> None:
    own = with_attention(**OF_ATTENTION[field])
    prepared = prepare(own)
    assert type(prepared.encoder) is not CompiledStack
    x, layout = torch.randn(3, 12, 64), Layout.padded(torch.tensor([12, 4, 9]), 12)
    same(prepared.encoder(x, layout), own.encoder(x, layout))


@compiled
@pytest.mark.parametrize("fields", [{"head_width": 32}, {"head_width": 16, "key_value_heads": 2}, {"bias": "qkv"}])
@torch.inference_mode()
def test_fields_of_attention_that_the_kernels_know(fields: dict[str, Any]) -> None:
    own = with_attention(**fields)
    prepared = prepare(own)
    assert type(prepared.encoder) is CompiledStack
    x, lengths = torch.randn(3, 12, 64), torch.tensor([12, 4, 9])
    one, other = (stack(x, Layout.padded(lengths, 12)) for stack in (own.encoder, prepared.encoder))
    for b, length in enumerate(lengths):
        same(other[b, :length], one[b, :length])


def with_attention(**fields: Any) -> Any:
    """A model whose encoder's attention has other fields than the rest."""
    own = transformer("pre-norm")
    spec = own.encoder.spec
    layers = tuple(
        dataclasses.replace(one, attention=dataclasses.replace(one.attention, **fields)) for one in spec.layers
    )
    own.encoder = dataclasses.replace(spec, layers=layers).build(64).eval()
    for parameter in own.encoder.parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, 0.5, 0.5)
    return own


def of_class(kind: type[nn.Module]) -> Callable[[Any], None]:
    return lambda module: setattr(module, "__class__", kind)


def hooked(module: nn.Module) -> None:
    module.register_forward_hook(lambda module, inputs, output: 2 * output)


def hooked_before(module: nn.Module) -> None:
    module.register_forward_pre_hook(lambda module, inputs: (inputs[0] + 1, *inputs[1:]))


def replaced(module: Any) -> None:
    usual = module.forward
    module.forward = lambda *args, **options: 2 * usual(*args, **options)


def without_gain(residual: Any) -> None:
    residual.norm = nn.LayerNorm(64, elementwise_affine=False)


def newer(**fields: Any) -> Callable[[Any], None]:
    """A spec with a field that the kernels have not heard of."""
    return lambda module: setattr(module, "spec", Newer(heads=4, **fields))


CHANGES = {
    "a query/key norm": Change("layers.1.self_attention", of_class(QueryKeyNorm)),
    "a scale of 1": Change("layers.1.self_attention.core", of_class(Unscaled)),
    "a new kind of spec": Change("layers.1.self_attention", newer()),
    "a norm by another rule": Change("layers.0.feedforward_residual.norm", of_class(GemmaNorm), LLAMA),
    "a shifted norm": Change("layers.0.self_attention_residual.norm", of_class(ShiftedNorm)),
    "another norm at the end": Change("norm", of_class(ShiftedNorm), "pre-norm"),
    "a norm without a gain": Change("layers.0.feedforward_residual", without_gain),
    "a norm in bf16": Change("layers.1.self_attention_residual.norm", lambda norm: norm.bfloat16(), LLAMA),
    "a scaled residual": Change("layers.1.self_attention_residual", of_class(Half)),
    "another feed-forward network": Change("layers.1.feedforward", of_class(Squared)),
    "another activation": Change("layers.1", lambda layer: setattr(layer.feedforward, "activation", nn.Tanh())),
    "another rotation": Change("rotation", of_class(Slow), LLAMA),
    "another layer": Change("layers.1", of_class(Parallel)),
    "another stack": Change("", of_class(Summed)),
    "a hook on a core": Change("layers.0.self_attention.core", hooked),
    "a hook on an attention": Change("layers.0.self_attention", hooked),
    "a hook on a feed-forward network": Change("layers.0.feedforward", hooked),
    "a hook on a product": Change("layers.0.feedforward.output", hooked),
    "a hook before a norm": Change("layers.0.feedforward_residual.norm", hooked_before),
    "a forward of its own": Change("layers.0.feedforward", replaced),
}


@compiled
@pytest.mark.parametrize("change", list(CHANGES))
@torch.inference_mode()
def test_stacks_that_the_kernels_do_not_know_go_by_modules(change: str) -> None:
    path, do, arrangement = CHANGES[change]
    own = transformer(arrangement)
    assert type(prepare(own).encoder) is CompiledStack, "what is changed below is what it is refused for"
    do(own.encoder.get_submodule(path))
    prepared = prepare(own)
    assert type(prepared.encoder) is not CompiledStack and type(prepared.decoder) is CompiledStack
    source = tokens(9, 3, 7)
    one, other = own.encode(source).hidden, prepared.encode(source).hidden
    for b, length in enumerate(source.lengths):
        same(other[b, :length], one[b, :length])


@compiled
@pytest.mark.parametrize("arrangement", list(ARRANGEMENTS))
@torch.inference_mode()
def test_only_padding_is_left_out(arrangement: str) -> None:
    """Any mask is attended with, whatever its shape: none of its rows may be zeros for that."""
    own = transformer(arrangement)
    prepared = prepare(own)
    x, places = torch.randn(3, 12, 64), torch.arange(12)
    masks = {
        "a window": ((places[:, None] - places).abs() <= 2)[None, None],
        "a window of the past": ((places[:, None] - places).clamp(min=0) <= 2)[None, None].expand(3, 1, 12, 12),
        "keys that nobody sees": (torch.rand(3, 1, 1, 12) < 0.5) | (places == 11),
        "keys like those of padding": places < torch.tensor([12, 3, 5])[:, None, None, None],
        "one of a sentence that all share": (places < 9)[None, None, None],
        "padding on the left": places >= torch.tensor([0, 3, 5])[:, None, None, None],
        "none": None,
    }
    for mask in masks.values():
        for causal in (False, True):
            layout = Layout(mask=mask, causal=causal)
            same(prepared.encoder(x, layout), own.encoder(x, layout))
            lengths = torch.tensor([12, 4, 9])
            layout = Layout(lengths=lengths, mask=mask, causal=causal)
            one, other = (stack(x, layout) for stack in (own.encoder, prepared.encoder))
            for b, length in enumerate(lengths):
                same(other[b, :length], one[b, :length])


def test_every_part_keeps_the_spec_that_it_was_built_from() -> None:
    for spec in (LayerNorm(), LayerNorm(eps=1e-3, bias=False), RMSNorm(), FeedForward(width=8), Attention(heads=2)):
        assert spec.build(32).spec is spec
    model = transformer(LLAMA)
    residual: Any = model.encoder.layers[0].feedforward_residual
    assert (residual.spec.norm, residual.spec.dropout, residual.spec.order) == (RMSNorm(), 0.1, "pre")
    assert not fits(model.encoder), "its products have not been prepacked"
