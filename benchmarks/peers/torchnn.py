"""torch.nn.Transformer with what it leaves to its user: one table, sinusoids, the masks. No line of it is regard's."""

from __future__ import annotations

import torch
from sdpa import Embedding
from torch import Tensor, nn


class Transformer(nn.Module):
    def __init__(self, vocabulary: int, width: int, layers: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.embed = Embedding(vocabulary, width, dropout)
        self.body = nn.Transformer(width, heads, layers, layers, feedforward, dropout, batch_first=True)

    def forward(self, source: Tensor, target: Tensor, pad: int) -> Tensor:
        padding = source == pad
        causal = torch.ones(target.shape[1], target.shape[1], dtype=torch.bool, device=target.device).triu(1)
        hidden = self.body(
            self.embed(source), self.embed(target), tgt_mask=causal, src_key_padding_mask=padding,
            memory_key_padding_mask=padding, tgt_is_causal=True,
        )  # fmt: skip
        return self.embed.logits(hidden)
