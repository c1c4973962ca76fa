"""Outputs that repeat themselves: the failure of small models on short or strange input."""

from __future__ import annotations

from collections.abc import Sequence

REPEATS = 4  # "no no no" is speech; the same words four times in a row are a loop
LONGEST = 16  # the longest phrase whose repetition is looked for


def is_loop(ids: Sequence[int], *, repeats: int = REPEATS, longest: int = LONGEST) -> bool:
    """Whether some phrase of at most ``longest`` tokens stands ``repeats`` times in a row.

    A phrase of p tokens stands k times in a row where p × (k - 1) tokens in a row equal those p places before.

    >>> is_loop([1, 2, 3, 2, 3, 2, 3, 2, 3]), is_loop([1, 2, 3, 2, 3, 4])
    (True, False)
    """
    for period in range(1, min(longest, len(ids) // repeats) + 1):
        run = 0
        for now, before in zip(ids[period:], ids, strict=False):
            run = run + 1 if now == before else 0
            if run >= period * (repeats - 1):
                return True
    return False
