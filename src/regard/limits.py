"""The largest numbers accepted from options, configurations and files; larger ones are an error of one line.

Each limit is far above any practical need, and below overflows and impossible amounts of memory.
"""

from __future__ import annotations

import numbers
from typing import Any

from regard.errors import RegardError

ANY_NUMBER = 1_000_000_000  # without a narrower limit
SEED = (1 << 63) - 1  # the range that TOML, NumPy and PyTorch share
THREADS = 1024
BEAM = 1000
SCORES = 1 << 28  # hypotheses of a sentence × vocabulary: 1 GiB of scores
HYPOTHESIS_TOKENS = 1 << 20  # hypotheses of a sentence × their tokens, each a few kilobytes
TEMPERATURE = 100.0  # of sampling: a softmax of scores that are divided by it is nearly flat
ALPHA = 5.0  # of a length penalty, positive or negative: fp32 holds HYPOTHESIS_TOKENS to this power
LENGTH = 16_384  # subwords of a sentence or a prompt; attention computes all pairs
EXTRA_TOKENS = 16_384  # subwords of an output beyond its input's length
BATCH = 1 << 24  # subwords of a batch
VOCABULARY = 1 << 22
PREFIX_TOKENS = 1024  # ids of a forced prefix, read for each sentence
SUPPRESSED = VOCABULARY  # ids that are never produced


def whole(name: str, value: Any, least: int, most: int) -> None:
    """Raise unless ``value`` is a whole number from ``least`` to ``most``."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or not least <= int(value) <= most:
        raise RegardError(f"{name} {_short(value)}: expected a whole number from {least:,} to {most:,}")


def product(names: str, one: int, other: int, most: int) -> None:
    """Raise if the product of two accepted numbers is too large."""
    if one * other > most:
        raise RegardError(f"{names} is {one:,} × {other:,}: expected at most {most:,} together")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "…"
