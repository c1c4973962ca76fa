"""Scaled dot-product attention (section 3.2.1): the paper's equation (1), written out.

``attend`` is the reference of every kernel (kernels.py).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from regard.nn.dropout import dropped
from regard.nn.layout import Layout


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: Layout,
    *,
    bias: Tensor | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Equation (1), Attention(Q, K, V) = softmax(QKᵀ / √d_k) V.

    query [B, H, Q, K], key [B, G, S, K], value [B, G, S, Kv], bias broadcastable to [B, H, Q, S] → [B, H, Q, Kv].
    H is a multiple of G. ``scale`` None is 1 / √K. A query that may attend to nothing gets zeros.
    """
    weights = attention_weights(query, key, layout, bias=bias, scale=scale)
    value = per_query_head(value, query.shape[1])
    return (dropped(weights, dropout) if dropout else weights).to(value.dtype) @ value


def attention_weights(
    query: Tensor, key: Tensor, layout: Layout, *, bias: Tensor | None = None, scale: float | None = None
) -> Tensor:
    """The weights of equation (1), [B, H, Q, S], in at least fp32; a row that sees nothing is 0."""
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = (query * scale) @ per_query_head(key, query.shape[1]).transpose(-2, -1)  # [B, H, Q, S]
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if bias is not None:
        scores = scores + bias
    return masked_softmax(scores, layout)


def masked_softmax(scores: Tensor, layout: Layout) -> Tensor:
    """Weights of scores [B, H, Q, S] over the keys that the layout lets each query see."""
    allowed = layout.allowed(scores.shape[-2], scores.shape[-1], scores.device)
    if allowed is None:
        return scores.softmax(-1)
    weights = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min).softmax(-1)
    return weights.masked_fill(~allowed, 0.0)  # rows that see nothing: zeros, and no NaN in the backward pass


def per_query_head(tensor: Tensor, heads: int) -> Tensor:
    """[B, G, S, K] → [B, H, S, K]: each key–value head serves H / G query heads that stand side by side."""
    groups = tensor.shape[1]
    return tensor if groups == heads else tensor.repeat_interleave(heads // groups, dim=1)
