"""Kernels of scaled dot-product attention: PyTorch's where it fits, else the equation; faster ways stand in accel/.

All kernels have the signature of the equation (``attend`` in attention.py) and are compared with it.
"""

from __future__ import annotations

import math
from collections import Counter

import torch
from torch import Tensor
from torch.nn import functional as F

from regard.nn.attention import attend
from regard.nn.layout import Layout
from regard.nn.ops import Operation

#: How often a call could not be computed by a fast kernel, by reason.
slow_calls: Counter[str] = Counter()


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: Layout,
    *,
    bias: Tensor | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Shapes as in ``attend``. Packed rows are a batch of one: query [1, H, R, K] → [1, H, R, Kv]."""
    if layout.packing is not None or layout.key_packing is not None:
        return unpacked(query, key, value, layout, bias=bias, scale=scale, dropout=dropout)
    if reason := _needs_equation(query, key, bias, dropout):
        slow_calls[reason] += 1
        return attend(query, key, value, layout, bias=bias, scale=scale, dropout=dropout)
    return fused(query, key, value, layout, bias=bias, scale=scale, dropout=dropout)


attention = Operation(_attention)


def _needs_equation(query: Tensor, key: Tensor, bias: Tensor | None, dropout: float) -> str:
    """Why PyTorch's function would not be a fast kernel for this call, or ""."""
    if query.shape[-2] == 0 or key.shape[-2] == 0:
        return "nothing to attend to"
    if dropout and query.device.type == "cpu":
        return "attention dropout on CPU"
    if bias is not None and bias.requires_grad and torch.is_grad_enabled() and query.device.type == "cpu":
        return "gradient of a bias on CPU"
    return ""


def unpacked(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: Layout,
    *,
    bias: Tensor | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Attention of packed rows by a kernel for padded batches; the bias is that of the padded batch."""
    if bias is not None or layout.mask is not None:
        slow_calls[f"a {'mask' if bias is None else 'bias'} on packed rows"] += 1
    query, key, value = padded_heads(query, key, value, layout)
    mixed = attention(query, key, value, layout.padded_rows(), bias=bias, scale=scale, dropout=dropout)
    return mixed if layout.packing is None else layout.packing.pack_heads(mixed)


def padded_heads(query: Tensor, key: Tensor, value: Tensor, layout: Layout) -> tuple[Tensor, Tensor, Tensor]:
    """The heads [B, H, Q, K], [B, G, S, K], [B, G, S, Kv] of packed rows; those of padded batches as they are."""
    if layout.packing is not None:
        query = layout.packing.unpack_heads(query)
    if layout.key_packing is not None:
        key, value = (layout.key_packing.unpack_heads(x) for x in (key, value))
    return query, key, value


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
    """PyTorch's ``scaled_dot_product_attention``: without a mask where nothing is hidden, or only causality hides."""
    grouped = query.shape[1] != key.shape[1]
    only_causal = layout.causal and layout.lengths is None and layout.mask is None and bias is None
    causal = only_causal and query.shape[-2] > 1
    mask = None if causal else additive_mask(query.shape[-2], key.shape[-2], query, layout, bias)
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, dropout_p=dropout, is_causal=causal, scale=scale, enable_gqa=grouped
    )


def additive_mask(queries: int, keys: int, like: Tensor, layout: Layout, bias: Tensor | None) -> Tensor | None:
    """Mask and bias as one tensor to add to the scores, broadcastable to [B, H, Q, S]; shared by the layers.

    A key that a query does not see gets -inf. The type and device are those of ``like``.
    """
    if not layout.hides():
        return None if bias is None else bias.to(like.dtype)

    def make() -> tuple[Tensor, Tensor | None]:
        allowed = layout.allowed(queries, keys, like.device)
        assert allowed is not None
        start = torch.zeros((), dtype=like.dtype, device=like.device) if bias is None else bias.to(like.dtype)
        return start.masked_fill(~allowed, -math.inf), bias  # the bias is kept, so that no other tensor gets its id

    return layout.once(("additive", id(bias), like.dtype, queries, keys), make)[0]
