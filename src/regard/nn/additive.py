"""Additive attention (Bahdanau et al. 2015)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from regard.nn.attention import masked_softmax
from regard.nn.layout import Layout


class AdditiveCore(nn.Module):
    """A core of additive attention: score(q, k) = vᵀ tanh(q + k).

    As in other cores the projections are outside: ``query`` and ``key`` come projected. ``vector`` is v.
    """

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        layout: Layout,
        *,
        vector: Tensor,
        bias: Tensor | None = None,
        scale: float | None = None,
    ) -> Tensor:
        """query [B, H, Q, K], key [B, H, S, K], value [B, H, S, Kv], vector [K] → [B, H, Q, Kv]."""
        weights = self.weights(query, key, layout, vector=vector, bias=bias, scale=scale)
        return weights.to(value.dtype) @ value

    def weights(
        self,
        query: Tensor,
        key: Tensor,
        layout: Layout,
        *,
        vector: Tensor,
        bias: Tensor | None = None,
        scale: float | None = None,
    ) -> Tensor:
        """softmax over the keys of vᵀ tanh(q + k), [B, H, Q, S]."""
        mixed = torch.tanh(query[..., :, None, :] + key[..., None, :, :])  # [B, H, Q, S, K]
        scores = (mixed @ vector).to(torch.promote_types(query.dtype, torch.float32))
        scores = scores if scale is None else scores * scale
        return masked_softmax(scores if bias is None else scores + bias, layout)
