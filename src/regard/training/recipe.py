"""The default training of a corpus: model size, vocabulary and time by its number of pairs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Size:
    """The model for corpora of fewer than ``pairs`` pairs; ``pieces`` counts subwords beside bytes and characters."""

    pairs: float
    pieces: int
    model: dict[str, Any]


# Small corpora overfit: narrow models and much dropout. Pre-norm needs no long warm-up.
SIZES = (
    Size(5_000, 1_000, {"preset": "tiny", "encoder_layers": 2, "decoder_layers": 2, "dropout": 0.3, "order": "pre"}),
    Size(200_000, 5_000, {"preset": "tiny", "dropout": 0.3, "order": "pre"}),
    Size(2_000_000, 12_000, {"preset": "small", "dropout": 0.2, "order": "pre"}),
    Size(float("inf"), 28_000, {"preset": "base", "order": "pre"}),
)
MINUTES = 30.0


def recipe(pairs: int, characters: Counter[str], *, minutes: float = MINUTES) -> dict[str, dict[str, Any]]:
    """The tables of a configuration for a corpus of so many pairs with these characters."""
    size = next(size for size in SIZES if pairs < size.pairs)
    # 4 special tokens, 256 bytes, the corpus's characters and pieces, rounded up to hundreds.
    vocabulary = -(-(260 + _covering(characters, 0.9995) + size.pieces) // 100) * 100
    return {
        "data": {"vocabulary": vocabulary},
        "model": {"architecture": "transformer", **size.model},
        "training": {
            "minutes": minutes,
            "warmup_steps": 400 if minutes <= 10 else 1000,
            "validate_every": 100 if minutes <= 10 else 250,
            "save_every": 100 if minutes <= 10 else 250,
            "patience": 10,
        },
    }


def _covering(characters: Counter[str], coverage: float) -> int:
    """The number of commonest characters that make up the share ``coverage`` of the text."""
    need = coverage * characters.total()
    count, have = 0, 0
    for _, times in characters.most_common():
        if have >= need:
            break
        count, have = count + 1, have + times
    return count
