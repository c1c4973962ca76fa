"""The plainest quick Transformer: nn.Linear and F.scaled_dot_product_attention. No line of it is regard's."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key_value = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor | None, causal: bool = False) -> Tensor:
        def split(y: Tensor) -> Tensor:
            return y.view(*y.shape[:2], self.heads, -1).transpose(1, 2)

        key, value = self.key_value(memory).chunk(2, dim=-1)
        y = F.scaled_dot_product_attention(
            split(self.query(x)), split(key), split(value), attn_mask=mask, is_causal=causal
        )
        return self.output(y.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    def __init__(self, width: int, heads: int, feedforward: int, dropout: float, cross: bool) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.cross = Attention(width, heads) if cross else None
        self.feedforward = nn.Sequential(nn.Linear(width, feedforward), nn.ReLU(), nn.Linear(feedforward, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3 if cross else 2))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None, memory: Tensor | None, memory_mask: Tensor | None) -> Tensor:
        norms = iter(self.norms)
        x = next(norms)(x + self.dropout(self.attention(x, x, mask, causal=self.cross is not None)))
        if self.cross is not None:
            x = next(norms)(x + self.dropout(self.cross(x, memory, memory_mask)))
        return next(norms)(x + self.dropout(self.feedforward(x)))


class Embedding(nn.Module):
    """Table × √width, sinusoids, dropout."""

    def __init__(self, vocabulary: int, width: int, dropout: float) -> None:
        super().__init__()
        self.table = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.table.weight, std=width**-0.5)
        self.dropout = nn.Dropout(dropout)
        angle = torch.arange(1024)[:, None] * torch.exp(torch.arange(0, width, 2) * (-math.log(1e4) / width))
        self.register_buffer("positions", torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        return self.dropout(self.table(ids) * self.table.embedding_dim**0.5 + self.positions[: ids.shape[1]])

    def logits(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.table.weight)


class Transformer(nn.Module):
    """Post-norm, one table, sinusoids. The decoder is causal and needs no mask of its own: padding comes last."""

    def __init__(self, vocabulary: int, width: int, layers: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.embed = Embedding(vocabulary, width, dropout)
        self.encoder = nn.ModuleList(Layer(width, heads, feedforward, dropout, False) for _ in range(layers))
        self.decoder = nn.ModuleList(Layer(width, heads, feedforward, dropout, True) for _ in range(layers))

    def forward(self, source: Tensor, target: Tensor, pad: int) -> Tensor:
        mask = (source != pad)[:, None, None, :]
        memory = self.embed(source)
        for layer in self.encoder:
            memory = layer(memory, mask, None, None)
        x = self.embed(target)
        for layer in self.decoder:
            x = layer(x, None, memory, mask)
        return self.embed.logits(x)
