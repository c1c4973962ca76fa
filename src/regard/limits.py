"""The largest numbers that are taken from options, configurations and files, and why: one line says what is too much.

Each is far above what anybody has needed, and below what ends in an overflow, or in memory that is not there.
"""

from __future__ import annotations

import numbers
from typing import Any

from regard.errors import RegardError

ANY_NUMBER = 1_000_000_000  # any number for which nothing narrower is said
SEED = (1 << 63) - 1  # what TOML, NumPy and PyTorch have in common
THREADS = 1024
BEAM = 1000
SCORES = 1 << 28  # hypotheses of a sentence × vocabulary: their scores, 1 GiB
PLACES = 1 << 20  # hypotheses of a sentence × its tokens: what is kept for each is a few kilobytes
ALPHA = 5.0  # of a length penalty, up or down: fp32 holds PLACES to this power
LENGTH = 16_384  # subwords of a sentence or a prompt: attention sees all pairs of them
EXTRA_TOKENS = 16_384  # subwords by which an output may be longer than its input
BATCH = 1 << 24  # subwords of a batch
VOCABULARY = 1 << 22
PREFIX_TOKENS = 1024  # ids of a forced prefix, which a model produces or reads again for each sentence
SUPPRESSED = 1 << 16  # ids that are never produced


def whole(name: str, value: Any, least: int, most: int) -> None:
    """Raise unless ``value`` is a whole number from ``least`` to ``most``."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or not least <= int(value) <= most:
        raise RegardError(f"{name} {_short(value)}: expected a whole number from {least:,} to {most:,}")


def product(names: str, one: int, other: int, most: int) -> None:
    """Raise where two numbers that are taken are too much together."""
    if one * other > most:
        raise RegardError(f"{names} is {one:,} × {other:,}: expected at most {most:,} together")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "…"
