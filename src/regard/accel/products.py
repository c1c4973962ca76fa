"""Attention on a CPU by two products: faster than PyTorch's blocked kernel where there are few attention weights."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from regard.accel.thresholds import BMM_UNBLOCKED, PLAIN_QUERIES, PLAIN_WEIGHTS, REGISTER
from regard.nn.kernels import additive_mask
from regard.nn.layout import Layout


def _few(query: Tensor, key: Tensor, bias: Tensor | None, layout: Layout) -> bool:
    """Whether two products compute this call, and faster than PyTorch's blocked kernel."""
    if layout.packing is not None or layout.key_packing is not None or 0 in (query.shape[-2], key.shape[-2]):
        return False
    if query.device.type != "cpu" or query.dtype not in (torch.float32, torch.float64, torch.bfloat16):
        return False
    if query.shape[1] != key.shape[1] or torch.compiler.is_compiling():
        return False
    if torch.is_grad_enabled() and bias is not None and bias.requires_grad:
        return False  # _Products has no gradient for a bias
    return query.shape[-2] <= PLAIN_QUERIES or query.shape[-2] * key.shape[-2] <= PLAIN_WEIGHTS


def _sees_nothing(query: Tensor, key: Tensor, layout: Layout) -> bool:
    """Whether some query sees no key, which ``products`` does not compute; read on a CPU, once per forward."""

    def make() -> Tensor:
        allowed = layout.allowed(query.shape[-2], key.shape[-2], query.device)
        return torch.tensor(False) if allowed is None else ~allowed.any(-1).all()

    return bool(layout.once(("sees nothing", query.shape[-2], key.shape[-2]), make))


def products(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: Layout,
    *,
    bias: Tensor | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Tensor | None:
    """The operation ``attention`` on a CPU by two products, where the weights are few; shapes as in ``attend``."""
    if dropout or not _few(query, key, bias, layout) or _sees_nothing(query, key, layout):
        return None
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    mask = additive_mask(query.shape[-2], key.shape[-2], query, layout, bias)
    if not torch.is_grad_enabled():
        return _two_products(query, key, value, mask, scale)[0]
    mixed: Tensor = _Products.apply(query, key, value, mask, scale)  # type: ignore[no-untyped-call]
    return mixed


def _two_products(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The output [B, H, Q, Kv], and for the backward pass query, key, value and weights, each [B · H, …]."""
    batch_heads = query.shape[:2]
    # One copy serves all products and the backward pass; heads that are contiguous already need none.
    query, key, value = (x.reshape(batch_heads.numel(), *x.shape[2:]) for x in (query, key, value))
    scores = _scaled(query, key.transpose(1, 2), scale)  # [B · H, Q, S]
    if mask is not None:
        scores.view(*batch_heads, *scores.shape[1:]).add_(mask)
    weights = _softmax(scores).to(value.dtype)
    if query.shape[1] == 1 and value.shape[1] * value.shape[2] < BMM_UNBLOCKED:
        mixed = (weights.transpose(1, 2) * value).sum(1)
    else:
        mixed = torch.bmm(weights, value)
    return mixed.view(*batch_heads, *query.shape[1:2], value.shape[2]), (query, key, value, weights)


def _softmax(scores: Tensor) -> Tensor:
    """Over the last axis, in at least fp32."""
    keys = scores.shape[-1]
    if keys < REGISTER:  # PyTorch's code for rows that do not fill a register takes ten times as long
        scores = F.pad(scores, (0, REGISTER - keys), value=-math.inf)
    return scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))[..., :keys]


class _Products(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
        ctx.batch_heads, ctx.scale = query.shape[:2], scale
        mixed, kept = _two_products(query, key, value, mask, scale)
        ctx.save_for_backward(*kept)
        return mixed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, weights = ctx.saved_tensors
        gradient = gradient.reshape(len(weights), *gradient.shape[2:])
        d_value = weights.transpose(1, 2) @ gradient
        d_weights, wide = gradient @ value.transpose(1, 2), torch.promote_types(weights.dtype, torch.float32)
        d_scores = torch._softmax_backward_data(d_weights.to(wide), weights.to(wide), -1, wide).to(weights.dtype)
        d_query, d_key = _scaled(d_scores, key, ctx.scale), _scaled(d_scores.transpose(1, 2), query, ctx.scale)
        return *(x.view(*ctx.batch_heads, *x.shape[1:]) for x in (d_query, d_key, d_value)), None, None


def _scaled(one: Tensor, other: Tensor, scale: float) -> Tensor:
    """scale · one @ other, in one pass."""
    return torch.baddbmm(one.new_empty(1, 1, 1), one, other, beta=0, alpha=scale)
