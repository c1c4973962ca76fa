"""Attention in training over packed rows: sentences of any length, one after another, without padding between them.

On a CPU by native kernels (c/varlen.h), without the padding, masks and copies of heads that would take longer than the
products of a head. On CUDA by FlashAttention's kernel for variable lengths (Dao 2023).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
    starts, key_starts = _starts(query, layout.packing), _starts(key, layout.key_packing)
    mixed: Tensor = _Attention.apply(  # type: ignore[no-untyped-call]
        query, key, value, kernels, starts, key_starts, layout.causal, scale, bias
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


def _starts(heads: Tensor, packing: Packing | None) -> Tensor:
    """[B + 1] where each sentence begins among the rows of heads [B, H, T, K]."""
    if packing is not None:
        return packing.starts
    return torch.arange(0, heads.shape[0] * heads.shape[2] + 1, heads.shape[2])


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, kernels: Native, starts: Tensor, key_starts: Tensor,
        causal: bool, scale: float, bias: Tensor | None,
    ) -> Tensor:  # fmt: skip
        batch, heads, queries, width = query.shape
        ctx.varlen = VarLen(
            starts.data_ptr(), key_starts.data_ptr(), len(starts) - 1, heads, key.shape[1], width, causal,
            query.dtype == torch.bfloat16, scale, Mask.of(bias),
        )  # fmt: skip
        mixed = query.new_empty(batch, queries, heads, width).transpose(1, 2)
        sums = kernels.attention(ctx.varlen, *map(_table, (query, key, value, mixed)))
        _clear_spare(mixed, starts)
        ctx.save_for_backward(query, key, value, sums, starts, key_starts)
        ctx.kernels, ctx.bias = kernels, bias  # the backward pass reads the bias too
        return mixed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, sums, starts, key_starts = ctx.saved_tensors
        d_query, d_key, d_value = _empty_side_by_side((query, key, value))
        ctx.kernels.attention_backward(
            ctx.varlen,
            tuple(map(_table, (query, key, value))),
            sums,
            _table(gradient).contiguous(),
            tuple(map(_table, (d_query, d_key, d_value))),
        )
        for part, its_starts in ((d_query, starts), (d_key, key_starts), (d_value, key_starts)):
            _clear_spare(part, its_starts)
        return d_query, d_key, d_value, *(None,) * 6


def _table(heads: Tensor) -> Tensor:
    """[B, H, T, K] → [B · T, H · K]: no copy where heads are columns of a table."""
    return heads.transpose(1, 2).flatten(2).flatten(0, 1)


def _clear_spare(heads: Tensor, starts: Tensor) -> None:
    """0 in the rows after the last sentence."""
    _table(heads)[int(starts[-1]) :] = 0


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
            joined = torch.cat([gradient.transpose(1, 2) for gradient in gradients], 2)
        return joined.flatten(2), None


def _empty_side_by_side(heads: Sequence[Tensor]) -> list[Tensor]:
    """Empty tensors like some heads [B, H, T, K] each, those of equal B and T as columns of one table."""
    found: list[Tensor] = []
    at = 0
    while at < len(heads):
        batch, _, tokens, width = heads[at].shape
        until = at + 1
        while until < len(heads) and heads[until].shape[::2] == heads[at].shape[::2] and _follows(heads, until):
            until += 1
        counts = [x.shape[1] for x in heads[at:until]]
        table = heads[at].new_empty(batch, tokens, sum(counts), width)
        found += [part.transpose(1, 2) for part in torch.split(table, counts, dim=2)]
        at = until
    return found


def _follows(heads: Sequence[Tensor], number: int) -> bool:
    """Whether these heads lie right after the preceding ones, in the same rows of a table."""
    before, one = heads[number - 1], heads[number]
    return one.stride() == before.stride() and one.data_ptr() == _end(before)


def _end(heads: Tensor) -> int:
    """The address right after the last head of the first row."""
    return heads.data_ptr() + heads.shape[1] * heads.stride(1) * heads.itemsize


def _joined(heads: Sequence[Tensor]) -> Tensor | None:
    """[B, H, T, K] each → the table [B, T, Σ H, K] of which they are the columns; None where they are not."""
    batch, _, tokens, width = heads[0].shape
    count = sum(x.shape[1] for x in heads)
    strides = tokens * count * width, width, count * width, 1
    one_storage = len({x.untyped_storage().data_ptr() for x in heads}) == 1
    side_by_side = all(_follows(heads, number) for number in range(1, len(heads)))
    if not one_storage or not side_by_side or (batch > 1 and heads[0].stride(0) != strides[0]):
        return None
    if heads[0].stride()[1:] != strides[1:]:
        return None
    shape = batch, tokens, count, width
    return heads[0].as_strided(shape, (strides[0], strides[2], strides[1], 1), heads[0].storage_offset())
