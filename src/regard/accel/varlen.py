"""Attention in training over packed rows: sentences of any length, one after another, without padding between them.

On a CPU by native kernels (c/varlen.h), without the padding, masks and copies of heads that would take longer than the
products of a head. On CUDA by FlashAttention's kernel for variable lengths (Dao 2023).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from regard.accel import native
from regard.accel.native import LANES, Native
from regard.accel.structures import Mask, VarLen
from regard.nn.layout import Layout
from regard.nn.packing import Packing


def native_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: Layout,
    *,
    bias: Tensor | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Tensor | None:
    """The operation ``attention`` in training on a CPU: packed rows, or a batch without padding.

    The bias, that of the padded batch, is read by what has no gradient for it.
    """
    if (
        (bias is not None and bias.requires_grad)
        or dropout
        or not torch.is_grad_enabled()
        or torch.compiler.is_compiling()
    ):
        return None
    if not _only_lengths_and_causality(layout) or not _alike(query, key, value) or query.shape[3] % LANES:
        return None
    if 0 in (*query.shape, *key.shape) or any(x.stride(3) != 1 for x in (query, key, value)):
        return None
    kernels = native.for_training(query)
    if kernels is None:
        return None
    if bias is not None:
        bias = _padded_bias(bias, query, key, layout)
    scale = query.shape[3] ** -0.5 if scale is None else scale
    rows, key_rows = _Sentences.of(query, layout.packing), _Sentences.of(key, layout.key_packing)
    mixed: Tensor = _Attention.apply(  # type: ignore[no-untyped-call]
        query, key, value, kernels, rows, key_rows, layout.causal, scale, bias
    )
    return mixed


def flash_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: Layout,
    *,
    bias: Tensor | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Tensor | None:
    """The operation ``attention`` on CUDA, in bf16 or fp16, where queries and keys are packed rows."""
    queries, keys = layout.packing, layout.key_packing
    if query.device.type != "cuda" or queries is None or keys is None or bias is not None or layout.mask is not None:
        return None
    width = query.shape[3]
    if not _alike(query, key, value) or query.dtype not in (torch.bfloat16, torch.float16):
        return None
    if width % 8 or width > 256:
        return None
    mixed: Tensor = torch.ops.aten._flash_attention_forward(
        *(x[0].transpose(0, 1) for x in (query, key, value)), queries.starts, keys.starts, queries.size, keys.size,
        dropout, layout.causal, False, scale=scale,
    )[0]  # fmt: skip
    return mixed.transpose(0, 1)[None]


def _padded_bias(bias: Tensor, query: Tensor, key: Tensor, layout: Layout) -> Tensor:
    """The bias of every query and key of the padded batch, [B, H, Q, S] in fp32; expanded, not copied."""
    batch, queries = _padded_size(query, layout.packing)
    bias = bias.float().expand(batch, query.shape[1], queries, _padded_size(key, layout.key_packing)[1])
    return bias if bias.stride(3) == 1 else bias.contiguous()


def _padded_size(heads: Tensor, packing: Packing | None) -> tuple[int, int]:
    """How many sentences heads [B, H, T, K] have, and the positions of each, padding counted."""
    return (heads.shape[0], heads.shape[2]) if packing is None else (packing.batch, packing.size)


def _alike(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether queries, keys and values are of one type and one head width."""
    return query.dtype == key.dtype == value.dtype and query.shape[3] == key.shape[3] == value.shape[3]


def _only_lengths_and_causality(layout: Layout) -> bool:
    """Whether packed rows say all that the layout says: no mask, no positions of a cache, padding only where packed."""
    if layout.mask is not None or layout.positions is not None or layout.key_positions is not None:
        return False
    return layout.lengths is None or layout.key_packing is not None


class _Sentences(NamedTuple):
    """Where each sentence begins among the rows of some heads [B, H, T, K], [B + 1], and the rows of no sentence."""

    starts: Tensor
    spare: int

    @staticmethod
    def of(heads: Tensor, packing: Packing | None) -> _Sentences:
        if packing is not None:
            return _Sentences(packing.starts, packing.spare)
        return _Sentences(torch.arange(0, heads.shape[0] * heads.shape[2] + 1, heads.shape[2]), 0)

    def clear_spare(self, *heads: Tensor) -> None:
        """0 in the rows of no sentence, which are the last."""
        if self.spare:
            for each in heads:
                each[:, :, -self.spare :] = 0


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, kernels: Native, rows: _Sentences, key_rows: _Sentences,
        causal: bool, scale: float, bias: Tensor | None,
    ) -> Tensor:  # fmt: skip
        batch, heads, queries, width = query.shape
        ctx.varlen = VarLen(
            rows.starts.data_ptr(), key_rows.starts.data_ptr(), len(rows.starts) - 1, heads, key.shape[1], width,
            causal, query.dtype == torch.bfloat16, scale, Mask.of(bias),
        )  # fmt: skip
        query, key, value = _in_rows(query), _in_rows(key), _in_rows(value)
        mixed = query.new_empty(batch, queries, heads, width).transpose(1, 2)
        sums = kernels.attention(ctx.varlen, query, key, value, mixed)
        rows.clear_spare(mixed)
        ctx.save_for_backward(query, key, value, sums)
        ctx.kernels, ctx.rows, ctx.key_rows = kernels, rows, key_rows
        ctx.bias = bias  # the backward pass reads the bias too
        return mixed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, sums = ctx.saved_tensors
        gradients = _empty_side_by_side(query, key, value)
        ctx.kernels.attention_backward(ctx.varlen, (query, key, value), sums, _in_rows(gradient), gradients)
        ctx.rows.clear_spare(gradients[0])
        ctx.key_rows.clear_spare(*gradients[1:])
        return *gradients, *(None,) * 6


def _in_rows(heads: Tensor) -> Tensor:
    """[B, H, T, K], copied unless the heads of a token are side by side, and its rows at equal distances."""
    batch, _, tokens, width = heads.shape
    sentence, head, row, number = heads.stride()
    if number == 1 and head == width and (batch == 1 or sentence == tokens * row):
        return heads
    return heads.transpose(1, 2).contiguous().transpose(1, 2)


def split_heads(x: Tensor, counts: Sequence[int]) -> tuple[Tensor, ...] | None:
    """The operation of nn/multihead.py in training on a CPU: gradients side by side are joined without a copy."""
    if x.device.type != "cpu" or not torch.is_grad_enabled() or torch.compiler.is_compiling() or not x.requires_grad:
        return None
    parts: tuple[Tensor, ...] = _Split.apply(x, tuple(counts))  # type: ignore[no-untyped-call]
    return parts


class _Split(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, counts: tuple[int, ...]) -> tuple[Tensor, ...]:
        parts = torch.split(x.view(*x.shape[:2], sum(counts), x.shape[2] // sum(counts)), list(counts), dim=2)
        return tuple(part.transpose(1, 2) for part in parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        joined = _joined(gradients)
        if joined is None:
            joined = torch.cat([gradient.transpose(1, 2) for gradient in gradients], 2).flatten(2)
        return joined, None


def _empty_side_by_side(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
    """Empty tensors like these [B, H, T, K], those of one table as columns of one table again."""
    storage = key.untyped_storage().data_ptr()
    if query.untyped_storage().data_ptr() == storage and query.shape[::2] == key.shape[::2]:
        return _columns(query, key, value)
    return *_columns(query), *_columns(key, value)


def _columns(*heads: Tensor) -> tuple[Tensor, ...]:
    batch, _, tokens, width = heads[0].shape
    counts = [each.shape[1] for each in heads]
    table = heads[0].new_empty(batch, tokens, sum(counts), width).transpose(1, 2)
    return torch.split(table, counts, 1)


def _joined(heads: Sequence[Tensor]) -> Tensor | None:
    """[B, H, T, K] each → the table [B, T, Σ H · K] of which they are all the columns; None where they are not."""
    first = heads[0]
    batch, _, tokens, width = first.shape
    sides = width * sum(each.shape[1] for each in heads)
    strides, address, storage = first.stride(), first.data_ptr(), first.untyped_storage().data_ptr()
    if strides[1:] != (width, sides, 1) or (batch > 1 and strides[0] != tokens * sides):
        return None
    for each in heads:
        if each.data_ptr() != address or each.stride() != strides or each.untyped_storage().data_ptr() != storage:
            return None
        address += each.shape[1] * width * each.itemsize
    return first.as_strided((batch, tokens, sides), (tokens * sides, sides, 1))
