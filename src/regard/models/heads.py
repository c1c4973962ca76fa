"""Heads of encoders: what is read from the last hidden states (Devlin et al. 2018, sections 3.1 and 4).

``MaskedWords`` are scores of tokens (base.py). The others give scores of labels, and are built here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from regard.models.base import Scores
from regard.nn.dropout import Dropout
from regard.nn.feedforward import Activation
from regard.nn.linear import Linear
from regard.nn.norm import LayerNorm, Norm
from regard.nn.padding import real
from regard.nn.transform import Transform


@dataclass(frozen=True, kw_only=True)
class MaskedWords:
    """Spec of scores of the tokens that were masked: BERT's transform, the embedding's table and a bias."""

    activation: Activation = "gelu"
    norm: Norm = LayerNorm(eps=1e-12)

    def __post_init__(self) -> None:
        self.scores()  # its spec checks the activation

    def scores(self) -> Scores:
        return Scores(tied_to="target", bias=True, before=Transform(activation=self.activation, norm=self.norm))


@dataclass(frozen=True, kw_only=True)
class TextLabels:
    """Spec of scores of labels for a whole text.

    ``pooling`` "first": the first token's state through a linear layer D → D and tanh, BERT's pooler; "mean": the mean
    of all real tokens' states. ``dropout`` follows.
    """

    pooling: Literal["first", "mean"] = "first"
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.pooling not in ("first", "mean"):
            raise ValueError(f"pooling must be first or mean, and is {self.pooling!r}")

    def build(self, width: int, labels: int) -> TextScores:
        return TextScores(self, width, labels)


@dataclass(frozen=True, kw_only=True)
class TokenLabels:
    """Spec of scores of labels for each token, after ``dropout``."""

    dropout: float = 0.1

    def build(self, width: int, labels: int) -> TokenScores:
        return TokenScores(self, width, labels)


@dataclass(frozen=True, kw_only=True)
class Spans:
    """Spec of two scores for each token: those of being the first and the last token of an answer."""

    def build(self, width: int, labels: int) -> SpanScores:
        return SpanScores(self, width)


LabelHead = TextLabels | TokenLabels | Spans
Head = MaskedWords | LabelHead


class TextScores(nn.Module):
    """Hidden states → scores of labels for each text."""

    def __init__(self, spec: TextLabels, width: int, labels: int) -> None:
        super().__init__()
        self.spec = spec
        self.pooler = Linear(width, width) if spec.pooling == "first" else None
        self.dropout = Dropout(spec.dropout)
        self.output = Linear(width, labels)

    def forward(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        """hidden [B, T, D], of which ``lengths`` [B] tokens are real → [B, C]."""
        pooled = torch.tanh(self.pooler(hidden[:, 0])) if self.pooler is not None else _mean(hidden, lengths)
        scores: Tensor = self.output(self.dropout(pooled))
        return scores


class TokenScores(nn.Module):
    """Hidden states → scores of labels for each token."""

    def __init__(self, spec: TokenLabels, width: int, labels: int) -> None:
        super().__init__()
        self.spec = spec
        self.dropout = Dropout(spec.dropout)
        self.output = Linear(width, labels)

    def forward(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        """hidden [B, T, D] → [B, T, C]; the scores of padding are never read."""
        scores: Tensor = self.output(self.dropout(hidden))
        return scores


class SpanScores(nn.Module):
    """Hidden states → the scores of the first and the last token of an answer."""

    def __init__(self, spec: Spans, width: int) -> None:
        super().__init__()
        self.spec = spec
        self.output = Linear(width, 2)

    def forward(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        """hidden [B, T, D] → [B, T, 2]; the scores of padding are never read."""
        scores: Tensor = self.output(hidden)
        return scores


def check_labels(labels: Sequence[str]) -> None:
    """ValueError for names of labels that could not be told apart, or not be written one a line."""
    seen: set[str] = set()
    for label in labels:
        if not label or "\0" in label or len(f"{label}.".splitlines()) > 1:
            raise ValueError(
                f"labels has {label!r:.60}: expected names without line breaks and NUL, none of them empty"
            )
        if label in seen:
            raise ValueError(f"labels has {label!r:.60} twice: expected names that differ")
        seen.add(label)


def _mean(hidden: Tensor, lengths: Tensor) -> Tensor:
    """The mean of the real tokens' states, [B, D]; 0 for a text without any."""
    inside = real(lengths, hidden.shape[1])[..., None]
    return hidden.masked_fill(~inside, 0).sum(1) / lengths.clamp(min=1)[:, None].to(hidden.dtype)
