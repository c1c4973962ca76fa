"""Embeddings × √D, with positions and dropout (section 3.4): what stands at the foot of each stack."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard.nn.dropout import Dropout
from regard.nn.positions import Positions


class Embedding(nn.Module):
    """Ids → vectors: Dropout(√D · table[id] + position). The table may be shared: ``embedding.table = other.table``."""

    def __init__(
        self, vocabulary: int, width: int, positions: Positions, *, dropout: float = 0.0, scaled: bool = True
    ) -> None:
        super().__init__()
        self.table = Table(vocabulary, width)
        self.positions = positions.build_added(width)
        self.scale = math.sqrt(width) if scaled else 1.0
        self.dropout = Dropout(dropout)

    def forward(self, ids: Tensor, positions: Tensor | None = None) -> Tensor:
        """ids [B, T], ``positions`` [B, T] (None: 0 … T-1) → [B, T, D]."""
        x = self.table(ids)
        if self.positions is not None:
            x = self.positions(x, positions, self.scale)
        elif self.scale != 1:
            x = x * self.scale
        out: Tensor = self.dropout(x)
        return out

    def reserve(self, length: int) -> None:
        """Makes ready for positions below ``length``."""
        if self.positions is not None:
            self.positions.reserve(length)

    def extra_repr(self) -> str:
        return f"scale={self.scale:.6g}"


class Table(nn.Embedding):
    """A table of vectors [V, D], drawn from N(0, 1/D): with √D in front they come out with variance 1.

    They come out in ``dtype``, or if there is none in the table's own.
    """

    dtype: torch.dtype | None = None

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, 0, self.embedding_dim**-0.5)

    def forward(self, input: Tensor) -> Tensor:
        found = F.embedding(input, self.weight)
        return found if self.dtype is None else found.to(self.dtype)
