"""Encoder and decoder layers (section 3.1, figure 1): attention, attention to a memory, feed-forward."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from regard.nn.feedforward import FeedForward
from regard.nn.layout import Layout
from regard.nn.multihead import Attention, KeyValueCache, Rotation
from regard.nn.norm import Norm
from regard.nn.residual import Order, Residual


@dataclass(frozen=True, kw_only=True)
class Layer:
    """Spec of one layer; ``cross`` adds attention to a memory, between self-attention and feed-forward."""

    attention: Attention
    feedforward: FeedForward
    norm: Norm
    cross: Attention | None = None
    order: Order = "post"
    dropout: float = 0.0

    def build(self, width: int) -> TransformerLayer:
        return TransformerLayer(self, width)


class TransformerLayer(nn.Module):
    """A layer of figure 1: without attention to a memory the left one, with it the right one."""

    def __init__(self, spec: Layer, width: int) -> None:
        super().__init__()
        self.spec = spec

        def residual() -> Residual:
            return Residual(width, spec.norm, spec.dropout, spec.order)

        self.self_attention = spec.attention.build(width)
        self.self_attention_residual = residual()
        self.cross_attention = None if spec.cross is None else spec.cross.build(width, memory_width=width)
        self.cross_attention_residual = None if spec.cross is None else residual()
        self.feedforward = spec.feedforward.build(width)
        self.feedforward_residual = residual()

    def forward(
        self,
        x: Tensor,
        layout: Layout,
        *,
        memory: Tensor | tuple[Tensor, Tensor] | None = None,
        memory_layout: Layout | None = None,
        bias: Tensor | None = None,
        rotation: Rotation | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """x [B, Q, D] → [B, Q, D]; ``memory`` [B, S, D] or its keys and values."""
        x = self.self_attention_residual(
            x, lambda y: self.self_attention(y, layout, bias=bias, rotation=rotation, cache=cache)
        )
        if self.cross_attention is not None and self.cross_attention_residual is not None:
            cross = self.cross_attention
            x = self.cross_attention_residual(x, lambda y: cross(y, memory_layout, memory=memory))
        out: Tensor = self.feedforward_residual(x, self.feedforward)
        return out
