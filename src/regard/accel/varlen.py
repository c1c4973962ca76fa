"""Attention in training: sentences of any length, one after another, without padding between them.

On a CPU by loops of our own (c/varlen.h): nothing is padded, split into heads, masked or joined again, which takes
longer than the products of a head do. On CUDA by FlashAttention's kernel for variable lengths (Dao 2023).
"""

from __future__ import annotations

from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from regard.accel import native
from regard.accel.linear import type_of_products
from regard.accel.native import LANES, Native
from regard.accel.structures import VarLen
from regard.nn.layout import Layout
from regard.nn.packing import Packing


class Attend(Protocol):
    """Equation (1) in every sentence: query [R, H · K] and key_value [R', 2 · G · K] → [R, H · K].

    Without ``key_value`` all three are in ``query`` [R, (H + 2 G) · K].
    """

    def __call__(self, query: Tensor, key_value: Tensor | None, layout: Layout, heads: int, groups: int) -> Tensor: ...


def choose(attention: Any, x: Tensor, layout: Layout) -> Attend | None:
    """Who computes in this way what the attention would; ``x`` [R, D] or [B, Q, D] goes into it."""
    core = attention.core
    if not attention.training or core._forward_hooks or core._forward_pre_hooks or layout.positions is not None:
        return None
    packing = layout.key_packing if attention.cross else layout.packing
    dtype = type_of_products(x)
    if x.device.type == "cuda":
        fits = dtype in (torch.bfloat16, torch.float16) and attention.head_width % 8 == 0
        fits = fits and attention.head_width <= 256 and None not in (packing, layout.packing)
        return partial(flash, dropout=core.dropout) if fits else None
    if core.dropout or attention.head_width % LANES or torch.compiler.is_compiling():
        return None
    if packing is None and layout.mask is not None:
        return None
    loops = native.for_training(x, dtype)
    return partial(attend, loops) if loops else None


def flash(
    query: Tensor, key_value: Tensor | None, layout: Layout, heads: int, groups: int, *, dropout: float = 0.0
) -> Tensor:
    """``Attend`` on CUDA, in bf16 or fp16, where everything is packed."""
    own, keys = layout.packing, layout.packing if key_value is None else layout.key_packing
    assert own is not None and keys is not None
    apart = _apart(query, key_value, heads, groups)
    width = apart[0].shape[1] // heads
    mixed: Tensor = torch.ops.aten._flash_attention_forward(
        *(x.view(len(x), -1, width) for x in apart), own.starts, keys.starts, own.size, keys.size,
        dropout, layout.causal, False,
    )[0]  # fmt: skip
    return mixed.flatten(1)


def attend(loops: Native, query: Tensor, key_value: Tensor | None, layout: Layout, heads: int, groups: int) -> Tensor:
    """``Attend`` on a CPU. What is not packed is [B, Q, …]."""
    key_packing = layout.packing if key_value is None else layout.key_packing
    starts = [_starts(x, packing) for x, packing in ((query, layout.packing), (key_value, key_packing))]
    mixed: Tensor = _Attention.apply(  # type: ignore[no-untyped-call]
        query, key_value, loops, *starts, heads, groups, layout.causal
    )
    return mixed


def _starts(x: Tensor | None, packing: Packing | None) -> Tensor | None:
    """[B + 1] where each sentence begins among the rows of x."""
    if x is None or packing is not None:
        return None if packing is None else packing.starts
    return torch.arange(0, x.numel() // x.shape[-1] + 1, x.shape[1])


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key_value: Tensor | None, loops: Native, starts: Tensor, key_starts: Tensor | None,
        heads: int, groups: int, causal: bool,
    ) -> Tensor:  # fmt: skip
        there = _apart(query, key_value, heads, groups)
        key_starts = starts if key_starts is None else key_starts
        width = there[0].shape[1] // heads
        ctx.varlen = VarLen(
            starts.data_ptr(), key_starts.data_ptr(), len(starts) - 1, heads, groups, width, causal,
            query.dtype == torch.bfloat16, width**-0.5,
        )  # fmt: skip
        mixed = query.new_empty(*query.shape[:-1], heads * width)
        sums = loops.attention(ctx.varlen, *there, mixed.flatten(0, -2))
        _clear_spare(mixed, starts)
        ctx.save_for_backward(query, key_value, sums, starts, key_starts)
        ctx.loops = loops
        return mixed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key_value, sums, starts, key_starts = ctx.saved_tensors
        heads, groups = ctx.varlen.heads, ctx.varlen.groups
        d_query, d_key_value = torch.empty_like(query), None if key_value is None else torch.empty_like(key_value)
        ctx.loops.attention_backward(
            ctx.varlen,
            _apart(query, key_value, heads, groups),
            sums,
            gradient.contiguous().flatten(0, -2),
            _apart(d_query, d_key_value, heads, groups),
        )
        _clear_spare(d_query, starts)
        if d_key_value is not None:
            _clear_spare(d_key_value, key_starts)
        return d_query, d_key_value, *(None,) * 6


def _clear_spare(x: Tensor, starts: Tensor) -> None:
    """0 in the rows of x after the last sentence."""
    x.flatten(0, -2)[int(starts[-1]) :] = 0


def _apart(query: Tensor, key_value: Tensor | None, heads: int, groups: int) -> tuple[Tensor, ...]:
    """Queries, keys and values as columns of their tables, each [rows, heads · K]."""
    if key_value is None:
        table = query.flatten(0, -2)
        width = table.shape[1] // (heads + 2 * groups)
        return torch.split(table, [heads * width, groups * width, groups * width], 1)
    return query.flatten(0, -2), *key_value.flatten(0, -2).chunk(2, 1)
