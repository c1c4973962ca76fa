"""A stack of layers as one call of c/stack.c, for inference on a CPU, called like a ``TransformerStack``.

In a decoding step Python and PyTorch take longer between the operators than the operators themselves take. So one call
computes them all.
"""

from __future__ import annotations

import copy
import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from regard.accel import structures
from regard.accel.fits import computes, plain
from regard.accel.native import LANES, Native
from regard.accel.structures import KeyValues, Strided
from regard.nn.dropout import Dropout
from regard.nn.feedforward import ACTIVATIONS, FeedForward, PositionWise
from regard.nn.kernels import additive_mask
from regard.nn.layers import Layer, TransformerLayer
from regard.nn.layout import Layout
from regard.nn.multihead import Attention, Core, MultiHeadAttention
from regard.nn.norm import LayerNorm, RMSNorm, RootMeanSquareNorm
from regard.nn.padding import real
from regard.nn.positions import Rotary
from regard.nn.residual import Residual, Wiring
from regard.nn.rotary import RotaryPositions
from regard.nn.sequences import Memory
from regard.nn.slots import CacheShape
from regard.nn.stacks import Stack, TransformerStack
from regard.nn.states import LayerCache

ACTIVATIONS_IN_C = {"relu": 0, "gelu": 1, "gelu_tanh": 2, "silu": 3}  # ``enum activation`` of rows.h


class CompiledStack(nn.Module):
    """A ``TransformerStack`` that ``fits``, computed by c/stack.c."""

    def __init__(self, stack: TransformerStack, native: Native) -> None:
        super().__init__()
        self.stack, self.native = stack, native
        # The structures point into these tensors, which must live even if a module is given others.
        self._held = [parameter.detach() for parameter in stack.parameters()]
        layers: list[Any] = list(stack.layers)
        attention, inner = layers[0].self_attention, layers[0].feedforward
        self.groups, self.head_width = attention.groups, attention.head_width
        self._layers = (structures.Layer * len(layers))(*map(_layer, layers))
        self._stack = structures.Stack(
            layers=len(layers), width=attention.output.matrix.outputs, heads=attention.heads, groups=self.groups,
            head_width=self.head_width, inner=inner.input.matrix.outputs, norm_first=_order(layers[0]) == "pre",
            activation=ACTIVATIONS_IN_C[inner.spec.activation], layer=self._layers, final_norm=_norm(stack.norm),
        )  # fmt: skip

    def __deepcopy__(self, memo: dict[int, Any]) -> CompiledStack:
        return CompiledStack(copy.deepcopy(self.stack, memo), self.native)

    @property
    def layers(self) -> nn.ModuleList:
        return self.stack.layers

    @property
    def cache_shapes(self) -> list[CacheShape]:
        return self.stack.cache_shapes

    def forward(
        self,
        x: Tensor,
        layout: Layout,
        *,
        memory: Tensor | Sequence[tuple[Tensor, Tensor]] | None = None,
        memory_layout: Layout | None = None,
        caches: Sequence[LayerCache] | None = None,
        live: Tensor | None = None,
    ) -> Tensor:
        """As ``TransformerStack``'s, x [B, Q, D] in fp32 → [B, Q, D]."""
        assert layout.packing is None and x.dtype == torch.float32, "for inference, with activations in fp32"
        stack, (batch, queries, width) = self.stack, x.shape
        keys = queries if layout.key_positions is None else layout.key_positions.shape[1]
        bias = None if stack.bias is None else stack.bias(queries, keys, layout, x.device)
        live = _real_tokens(layout, queries) if caches is None else live
        indices = torch.arange(batch * queries) if live is None else live
        rows = x.reshape(batch * queries, width)
        rows = rows.clone(memory_format=torch.contiguous_format) if live is None else rows[live]
        computed = structures.Rows(indices.data_ptr(), len(indices), queries)
        call = structures.Call(rows=computed, x=rows.data_ptr(), keys=keys)
        mask = additive_mask(queries, keys, x, layout, bias)
        call.mask, held = self._mask(mask, batch, queries, keys)
        used: list[Any] = [held]
        if stack.rotation is not None:
            rotated = stack.rotation(queries, layout.positions, x.device)
            cosine, sine = (part.expand(-1, 1, queries, -1).contiguous() for part in (rotated.cosine, rotated.sine))
            call.cosine, call.sine = cosine.data_ptr(), sine.data_ptr()
            call.rotation_stride = cosine.stride(0) if len(cosine) > 1 else 0
            used += [cosine, sine]
        if caches is not None:
            pairs = [cache.room(x) for cache in caches]
            slots = caches[0].slots.new.contiguous()
            used += [slots, _key_values(pairs)]
            call.slots, call.cache = slots.data_ptr(), ctypes.addressof(used[-1])
            call.keys, call.bf16 = caches[0].slots.extent, _in_bf16(pairs)
        if memory is not None:
            assert memory_layout is not None
            if isinstance(memory, Tensor):
                memory = self.project_memory(Memory(memory, torch.full((batch,), memory.shape[1])))
            pairs = list(memory)
            call.memory_keys, call.bf16 = pairs[0][0].shape[2], _in_bf16(pairs)
            mask = additive_mask(queries, call.memory_keys, x, memory_layout, None)
            call.memory_mask, held = self._mask(mask, batch, queries, call.memory_keys)
            used += [held, pairs, _key_values(pairs)]
            call.memory = ctypes.addressof(used[-1])
        self.native.stack(self._stack, call)
        if live is not None:
            rows = rows.new_zeros(batch * queries, width).index_copy_(0, live, rows)
        return rows.view(batch, queries, width)

    def project_memory(self, memory: Memory, dtype: torch.dtype | None = None) -> list[tuple[Tensor, Tensor]]:
        """As ``TransformerStack``'s; nothing is computed for the padding."""
        batch, tokens, _ = memory.hidden.shape
        pairs = []
        for layer in self.layers:
            shape = batch, self.groups, tokens, self.head_width
            keys, values = (memory.hidden.new_empty(shape, dtype=dtype) for _ in range(2))
            matrix: Any = layer.cross_attention.key_value.matrix  # type: ignore[union-attr]
            self.native.project(matrix, memory.hidden, memory.lengths, keys, values)
            pairs.append((keys, values))
        return pairs

    def _mask(self, mask: Tensor | None, batch: int, queries: int, keys: int) -> tuple[structures.Mask, Tensor | None]:
        """The mask for c/stack.c, and the tensor that it points into."""
        if mask is not None:
            mask = mask.expand(batch, self._stack.heads, queries, keys)
            mask = mask if mask.stride(3) == 1 else mask.contiguous()
        return structures.Mask.of(mask), mask


def _real_tokens(layout: Layout, tokens: int) -> Tensor | None:
    """The indices of real tokens in the flattened B × T; None: all are."""
    return None if layout.lengths is None else real(layout.lengths, tokens).flatten().nonzero()[:, 0]


def _key_values(pairs: Sequence[tuple[Tensor, Tensor]]) -> Any:
    """``struct key_values`` of each layer, from its keys and values [B, G, S, K]."""
    return (KeyValues * len(pairs))(*(KeyValues(Strided.of(key), Strided.of(value)) for key, value in pairs))


def _in_bf16(pairs: Sequence[tuple[Tensor, Tensor]]) -> bool:
    return pairs[0][0].dtype == torch.bfloat16


def fits(stack: nn.Module) -> bool:
    """Whether c/stack.c computes all that this stack does; its linear layers have been given their ``Matrix``."""
    if not _known_stack(stack):
        return False
    shapes = {_shape(layer) for layer in stack.layers}  # type: ignore[union-attr]
    return len(shapes) == 1 and None not in shapes


def _known_stack(stack: Any) -> bool:
    """Whether c/stack.c computes all but the layers. Any ``bias`` is allowed: Python computes it beforehand."""
    if not plain(stack, TransformerStack) or not computes(
        stack.spec, Stack, "layers", "positions", "causal", "final_norm", "final_dropout"
    ):
        return False
    rotates = stack.rotation is None or (
        plain(stack.rotation, RotaryPositions) and computes(stack.spec.positions, Rotary, "theta", "scaling")
    )
    return rotates and (stack.norm is None or _known_norm(stack.norm))


def _shape(layer: nn.Module) -> object:
    """The sizes and arrangement that must be equal in all layers; None where c/stack.c does not compute the layer."""
    if not _known_layer(layer):
        return None
    one: Any = layer
    attentions = [part for part in (one.self_attention, one.cross_attention) if part is not None]
    heads = {(part.heads, part.groups, part.head_width) for part in attentions}
    orders = {child.order for child in one.children() if isinstance(child, Residual)}
    if len(heads) > 1 or len(orders) > 1:
        return None
    return *heads, *orders, one.feedforward.spec.activation, one.feedforward.input.matrix.outputs


def _known_layer(layer: Any) -> bool:
    known = "attention", "feedforward", "norm", "cross", "order", "dropout"
    if not plain(layer, TransformerLayer) or not computes(layer.spec, Layer, *known):
        return False
    residuals = layer.self_attention_residual, layer.cross_attention_residual, layer.feedforward_residual
    return (
        all(_known_attention(part) for part in (layer.self_attention, layer.cross_attention) if part is not None)
        and _known_feedforward(layer.feedforward)
        and all(_known_residual(residual) for residual in residuals if residual is not None)
        and all(getattr(linear, "matrix", None) is not None for linear in _linears(layer))
    )


def _known_attention(part: Any) -> bool:
    return (
        plain(part, MultiHeadAttention)
        and computes(part.spec, Attention, "heads", "key_value_heads", "head_width", "bias", "dropout")
        and plain(part.core, Core)
        and not part.core.window
        and part.query_norm is None
        and part.key_norm is None
        and part.head_width % LANES == 0
    )


def _known_feedforward(part: Any) -> bool:
    return (
        plain(part, PositionWise)
        and computes(part.spec, FeedForward, "width", "activation", "gated", "bias", "dropout")
        and plain(part.dropout, Dropout)
        and part.spec.activation in ACTIVATIONS_IN_C
        and repr(part.activation) == repr(ACTIVATIONS[part.spec.activation]())
        and plain(part.activation, type(part.activation))
    )


def _known_residual(part: Any) -> bool:
    known = plain(part, Residual) and computes(part.spec, Wiring, "norm", "dropout", "order")
    return known and plain(part.dropout, Dropout) and _known_norm(part.norm)


def _known_norm(norm: Any) -> bool:
    spec = getattr(norm, "spec", None)
    if any(x.dtype != torch.float32 or x.device.type != "cpu" for x in norm.parameters()):
        return False  # c/rows.h reads fp32
    if plain(norm, nn.LayerNorm):
        return computes(spec, LayerNorm, "eps", "bias")
    return plain(norm, RootMeanSquareNorm) and computes(spec, RMSNorm, "eps")


def _linears(layer: Any) -> list[Any]:
    own, cross, inner = layer.self_attention, layer.cross_attention, layer.feedforward
    of_cross = [] if cross is None else [cross.query, cross.key_value, cross.output]
    of_gate = [] if inner.gate is None else [inner.gate]
    return [own.query_key_value, own.output, *of_cross, inner.input, *of_gate, inner.output]


def _layer(layer: Any) -> structures.Layer:
    own, cross, inner = layer.self_attention, layer.cross_attention, layer.feedforward
    found = structures.Layer(
        self_attention=structures.Attention(own.query_key_value.matrix.linear, own.output.matrix.linear),
        input=inner.input.matrix.linear, output=inner.output.matrix.linear, norm=_norm(layer.feedforward_residual.norm),
    )  # fmt: skip
    found.self_attention.norm = _norm(layer.self_attention_residual.norm)
    if cross is not None:
        found.cross_attention = structures.Attention(cross.query.matrix.linear, cross.output.matrix.linear)
        found.cross_attention.norm = _norm(layer.cross_attention_residual.norm)
    if inner.gate is not None:
        found.gate = inner.gate.matrix.linear
    return found


def _norm(norm: Any) -> structures.Norm:
    if norm is None:
        return structures.Norm()
    bias = getattr(norm, "bias", None)
    return structures.Norm(
        gain=norm.weight.data_ptr(), bias=None if bias is None else bias.data_ptr(), epsilon=norm.eps,
        centred=isinstance(norm, nn.LayerNorm),
    )  # fmt: skip


def _order(layer: Any) -> str:
    order: str = layer.self_attention_residual.order
    return order
