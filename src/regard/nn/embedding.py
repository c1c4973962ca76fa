"""Embeddings × √D, with positions, segments, norm and dropout (section 3.4): the input of each stack."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard.nn.dropout import Dropout
from regard.nn.norm import Norm
from regard.nn.positions import NoPositions, Positions


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """Spec of an embedding of token ids: their vectors times ``factor``, with ``positions`` and ``dropout``.

    ``segments``: how many vectors of segments there are, BERT's token types (Devlin et al. 2018, section 3.2); 0: none.
    ``norm`` follows the sum and precedes the dropout. ``tied_to`` "source": the target's table is the source's, which
    the model shares (``TiedModel.tie``).
    """

    positions: Positions = field(default=NoPositions())
    segments: int = 0
    norm: Norm | None = None
    factor: float = 1.0
    dropout: float = 0.0
    tied_to: Literal["source"] | None = None

    def __post_init__(self) -> None:
        if self.segments < 0:
            raise ValueError(f"segments={self.segments} must be at least 0")

    def build(self, vocabulary: int, width: int) -> TokenEmbedding:
        """The module, with a table of ``vocabulary`` rows."""
        return TokenEmbedding(self, vocabulary, width)


class TokenEmbedding(nn.Module):
    """Ids → vectors: Dropout(Norm(factor · table[id] + position + segment)).

    A table may be shared: ``one.table = other.table``.
    """

    def __init__(self, spec: Embedding, vocabulary: int, width: int) -> None:
        super().__init__()
        self.spec, self.factor = spec, spec.factor
        self.table = Table(vocabulary, width)
        self.positions = spec.positions.build_added(width)
        self.segments = Table(spec.segments, width) if spec.segments else None
        self.norm = None if spec.norm is None else spec.norm.build(width)
        self.dropout = Dropout(spec.dropout)

    def forward(self, ids: Tensor, positions: Tensor | None = None, segments: Tensor | None = None) -> Tensor:
        """ids [B, T], ``positions`` [B, T] (None: 0 … T-1), ``segments`` [B, T] (None: all 0) → [B, T, D].

        Raises ValueError for segments where the spec has none.
        """
        x = self.table(ids)
        if self.positions is not None:
            x = self.positions(x, positions, self.factor)
        elif self.factor != 1:
            x = x * self.factor
        if self.segments is not None:
            # One vector for all tokens needs no look-up.
            x = x + (self.segments.first() if segments is None else self.segments(segments))
        elif segments is not None:
            raise ValueError("the tokens have segments, and this model has no vectors of segments")
        x = x if self.norm is None else self.norm(x)
        out: Tensor = self.dropout(x)
        return out

    def reserve(self, length: int) -> None:
        """Prepares for positions below ``length``; TooLong where there are fewer."""
        if self.positions is not None:
            self.positions.reserve(length)

    def extra_repr(self) -> str:
        return f"factor={self.factor:.6g}"


class Table(nn.Embedding):
    """A table of vectors [V, D], drawn from N(0, 1/D), so that √D times a vector has variance 1.

    ``dtype`` is that of the vectors returned; None: the table's own.
    """

    dtype: torch.dtype | None = None

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, 0, self.embedding_dim**-0.5)

    def forward(self, input: Tensor) -> Tensor:
        found = F.embedding(input, self.weight)
        return found if self.dtype is None else found.to(self.dtype)

    def first(self) -> Tensor:
        """The vector of id 0, [D]."""
        return self.weight[0] if self.dtype is None else self.weight[0].to(self.dtype)
