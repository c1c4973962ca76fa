"""Outputs that repeat themselves: the failure of small models on short or strange input."""

from __future__ import annotations

from collections.abc import Sequence

REPEATS = 4  # "no no no" is speech; the same words four times in a row are a loop
LONGEST = 16  # the longest phrase whose repetition is looked for


def find_loop(ids: Sequence[int], *, repeats: int = REPEATS, longest: int = LONGEST) -> list[int]:
    """The shortest phrase of at most ``longest`` tokens that stands ``repeats`` times in a row; [] where there is none.

    A phrase of p tokens stands k times in a row where p × (k - 1) tokens in a row equal those p places before.

    >>> find_loop([1, 2, 3, 2, 3, 2, 3, 2, 3]), find_loop([1, 2, 3, 2, 3, 4])
    ([2, 3], [])
    """
    for period in range(1, min(longest, len(ids) // repeats) + 1):
        run = 0
        for place in range(period, len(ids)):
            run = run + 1 if ids[place] == ids[place - period] else 0
            if run >= period * (repeats - 1):
                first = place - period * repeats + 1
                return list(ids[first : first + period])
    return []


def is_loop(ids: Sequence[int], *, repeats: int = REPEATS, longest: int = LONGEST) -> bool:
    """Whether an output repeats itself.

    >>> is_loop([7, 7, 7, 7]), is_loop([7, 7, 7])
    (True, False)
    """
    return bool(find_loop(ids, repeats=repeats, longest=longest))
