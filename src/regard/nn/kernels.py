"""One place that chooses the kernel of scaled dot-product attention, and counts when no fast one fitted."""

from __future__ import annotations

import math
from collections import Counter
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from regard.nn.attention import attend
from regard.nn.layout import Layout


class Kernel(Protocol):
    """The face that the equation and every fast kernel share."""

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        layout: Layout,
        *,
        bias: Tensor | None = None,
        scale: float | None = None,
        dropout: float = 0.0,
    ) -> Tensor: ...


#: How often the written-out equation had to step in, by reason.
slow_calls: Counter[str] = Counter()


def choose(
    query: Tensor, key: Tensor, value: Tensor, layout: Layout, *, bias: Tensor | None = None, dropout: float = 0.0
) -> Kernel:
    """The fastest kernel that can do this call; the equation itself, counted, where none can."""
    if query.shape[-2] == 0 or key.shape[-2] == 0:
        slow_calls["nothing to attend to"] += 1
        return attend
    if dropout and query.device.type == "cpu":
        slow_calls["attention dropout on CPU"] += 1
        return attend
    if bias is not None and bias.requires_grad and torch.is_grad_enabled() and query.device.type == "cpu":
        slow_calls["gradient of a bias on CPU"] += 1  # PyTorch's function falls back by itself
    if _short(query, key) and not _blind(query, key, layout):
        return short
    return fused


SHORT = 8  # queries up to which two plain products are faster on a CPU than its blocked kernel


def _short(query: Tensor, key: Tensor) -> bool:
    plain = (
        query.device.type == "cpu" and query.dtype in (torch.float32, torch.float64) and query.shape[1] == key.shape[1]
    )
    return plain and query.shape[-2] <= SHORT and not torch.is_grad_enabled()


def _blind(query: Tensor, key: Tensor, layout: Layout) -> bool:
    """Whether some query sees nothing, which ``short`` has no answer for; asked on a CPU, once per forward."""

    def look() -> Tensor:
        allowed = layout.allowed(query.shape[-2], key.shape[-2], query.device)
        return torch.tensor(False) if allowed is None else ~allowed.any(-1).all()

    return bool(layout.once(("blind", query.shape[-2], key.shape[-2]), look))


def short(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: Layout,
    *,
    bias: Tensor | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """For few queries, as in decoding: the equation with an added mask; shapes as in ``attend``."""
    assert not dropout, "decoding drops nothing"
    scores = (query * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)) @ key.transpose(-2, -1)
    mask = additive_mask(query, key, layout, bias)
    if mask is not None:
        scores += mask
    return scores.softmax(-1) @ value


def fused(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: Layout,
    *,
    bias: Tensor | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """PyTorch's ``scaled_dot_product_attention``: shapes as in ``attend``, without a mask where nothing is hidden."""
    grouped = query.shape[1] != key.shape[1]
    causal = layout.causal and layout.mask is None and bias is None and query.shape[-2] > 1
    mask = None if causal else additive_mask(query, key, layout, bias)
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, dropout_p=dropout, is_causal=causal, scale=scale, enable_gqa=grouped
    )


def additive_mask(query: Tensor, key: Tensor, layout: Layout, bias: Tensor | None) -> Tensor | None:
    """What is added to the scores, broadcastable to [B, H, Q, S]: 0 or -inf, and the bias; shared by the layers."""
    queries, keys = query.shape[-2], key.shape[-2]
    if layout.mask is None and not layout.causal:
        return None if bias is None else bias.to(query.dtype)

    def make() -> Tensor:
        allowed = layout.allowed(queries, keys, query.device)
        assert allowed is not None
        start = torch.zeros((), dtype=query.dtype, device=query.device) if bias is None else bias.to(query.dtype)
        return start.masked_fill(~allowed, -math.inf)

    return layout.once(("additive", id(bias), query.dtype, queries, keys), make)
