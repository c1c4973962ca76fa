"""Attention maps: weights and the tokens of both sides, all that a drawing needs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

BYTE = re.compile("<0x([0-9A-F]{2})>")


@dataclass(frozen=True)
class AttentionMap:
    """The attention of each target token to each source token: `weights` [T, S], rows sum to at most 1."""

    weights: NDArray[np.float32]
    source: tuple[str, ...]
    target: tuple[str, ...]
    title: str = ""

    def __post_init__(self) -> None:
        shape = (len(self.target), len(self.source))
        if self.weights.shape != shape:
            raise ValueError(f"weights are {self.weights.shape}, the tokens ask for {shape}")

    def to_dict(self) -> dict[str, Any]:
        """The map as JSON values."""
        weights = [[round(float(w), 4) for w in row] for row in self.weights]
        return {"title": self.title, "source": list(self.source), "target": list(self.target), "weights": weights}


def characters(attention: AttentionMap) -> AttentionMap:
    """Join the bytes of a character: columns are summed, rows averaged.

    >>> characters(AttentionMap(np.eye(3, dtype=np.float32), ("<0xE7>", "<0x88>", "<0xB1>"), ("a", "b", "c"))).source
    ('爱',)
    """
    columns, rows = _joined(attention.source), _joined(attention.target)
    weights = (
        np.stack([attention.weights[:, group].sum(1) for _, group in columns], 1) if columns else attention.weights
    )
    weights = np.stack([weights[group].mean(0) for _, group in rows]) if rows else weights
    sides = [tuple(text for text, _ in side) for side in (columns, rows)]
    return AttentionMap(weights.astype(np.float32), sides[0], sides[1], attention.title)


def _joined(tokens: tuple[str, ...]) -> list[tuple[str, list[int]]]:
    """(text, indices) of each token, and of each run of byte tokens that is one character."""
    found: list[tuple[str, list[int]]] = []
    at = 0
    while at < len(tokens):
        for size in (4, 3, 2):
            text = _character(tokens[at : at + size], size)
            if text:
                break
        else:
            text, size = tokens[at], 1
        found.append((text, list(range(at, at + size))))
        at += size
    return found


def _character(tokens: tuple[str, ...], size: int) -> str:
    """The character that these byte tokens spell; "" if none."""
    codes = [BYTE.fullmatch(token) for token in tokens]
    if len(codes) != size or not all(codes):
        return ""
    text = bytes(int(code[1], 16) for code in codes if code).decode("utf-8", "replace")
    return text if len(text) == 1 and text != "\ufffd" else ""
