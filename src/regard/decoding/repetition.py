"""Outputs that repeat themselves, the failure of small models on short or strange input: found, and ruled out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

REPEATS = 4  # "no no no" is speech; the same words four times in a row are not
LONGEST = 16  # the longest phrase whose repetition is looked for


def find_repetition(ids: Sequence[int], *, repeats: int = REPEATS, longest: int = LONGEST) -> list[int]:
    """The shortest phrase of at most ``longest`` tokens that stands ``repeats`` times in a row; [] where there is none.

    A phrase of p tokens stands k times in a row where p × (k - 1) tokens in a row equal those p places before.

    >>> find_repetition([1, 2, 3, 2, 3, 2, 3, 2, 3]), find_repetition([1, 2, 3, 2, 3, 4])
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


def is_repetitive(ids: Sequence[int], *, repeats: int = REPEATS, longest: int = LONGEST) -> bool:
    """Whether a phrase of an output stands ``repeats`` times in a row.

    >>> is_repetitive([7, 7, 7, 7]), is_repetitive([7, 7, 7])
    (True, False)
    """
    return bool(find_repetition(ids, repeats=repeats, longest=longest))


def repeats(ids: Tensor, ages: np.ndarray, size: int) -> Tensor | None:
    """Which tokens would repeat an n-gram of ``size``: [B, R, m], -1 where none would.

    ids [B, R, C] with ``ages`` [B] tokens each.

    >>> repeats(torch.tensor([[[5, 6, 5, 0]]]), np.array([3]), 2)
    tensor([[[ 6, -1]]])
    """
    longest = int(ages.max())
    if longest < size:
        return None
    age = torch.as_tensor(ages, device=ids.device)
    windows = ids[:, :, :longest].unfold(2, size, 1)  # [B, R, longest - size + 1, size]
    starts = torch.arange(windows.shape[2], device=ids.device)
    same = (starts[None] + size <= age[:, None])[:, None, :].expand(windows.shape[:3])
    for place in range(size - 1):  # the hypothesis' last size - 1 tokens against the head of every window
        at = (age - size + 1 + place).clamp(min=0)[:, None, None].expand(*ids.shape[:2], 1)
        same = same & (windows[..., place] == ids.gather(2, at))
    return windows[..., -1].masked_fill(~same, -1)
