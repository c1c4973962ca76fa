"""How hypotheses are compared: the length penalty, and what a live hypothesis can still reach.

A hypothesis of log-probability ``score`` and ``length`` tokens (its end mark counted) is ranked by
``score / divisor(length)``:

    gnmt:α    ((5 + |y|) / 6)^α     Wu et al. 2016, equation 14; the paper's (section 6.1: α = 0.6)
    power:α   |y|^α                 what Hugging Face and CTranslate2 compute
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor

from regard import limits
from regard.errors import RegardError


@dataclass(frozen=True)
class LengthPenalty:
    """``LengthPenalty.parse("gnmt:0.6")``."""

    kind: Literal["gnmt", "power"] = "gnmt"
    alpha: float = 0.6

    @classmethod
    def parse(cls, text: str | float | Self) -> Self:
        """From "gnmt:0.6", "power:1.0", or a bare number, which is gnmt's α."""
        if isinstance(text, cls):
            return text
        kind, colon, number = str(text).rpartition(":")
        kind = kind if colon else "gnmt"
        try:
            alpha = float(number)
        except ValueError:
            alpha = math.nan
        if kind not in ("gnmt", "power") or not abs(alpha) <= limits.ALPHA:
            raise RegardError(
                f"length penalty {str(text)[:40]!r}: expected gnmt:NUMBER or power:NUMBER, such as gnmt:0.6, with a "
                f"number from {-limits.ALPHA:g} to {limits.ALPHA:g}"
            )
        return cls("gnmt" if kind == "gnmt" else "power", alpha)

    def __str__(self) -> str:
        return f"{self.kind}:{self.alpha:g}"

    def divisor(self, length: int) -> float:
        """The divisor of the score of ``length`` tokens (end mark counted, at least 1)."""
        base = (5 + length) / 6 if self.kind == "gnmt" else float(length)
        return float(base**self.alpha)

    def apply(self, score: float, length: int) -> float:
        """The normalised score."""
        return score / self.divisor(length)

    def table(self, longest: int, device: torch.device | str = "cpu") -> Tensor:
        """Divisors of the lengths 0 … longest, [longest + 1]; entry 0 is that of length 1, as nothing has length 0."""
        return torch.tensor([self.divisor(max(1, n)) for n in range(longest + 1)], dtype=torch.float32, device=device)

    def best_length(self, shortest: int, limit: int) -> int:
        """The length at which a score that is never positive is worth most: the longest, unless α is negative.

        Every further token adds a log-probability ≤ 0, so that ``score / divisor(best_length)`` bounds all that
        the descendants of a live hypothesis can reach. This makes ``stopping="exact"`` exact: a sentence is done when
        the bound of its best live hypothesis does not exceed the worst of its n best finished ones. (All live
        hypotheses of a sentence have one length, hence the best score has the best bound.)
        """
        return limit if self.alpha >= 0 else min(shortest, limit)
