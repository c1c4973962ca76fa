"""Finds outputs that repeat themselves, as small models do on short or strange input, and n-grams that would."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

REPEATS = 4  # "no no no" is speech; the same words four times in a row are not
LONGEST = 16  # the longest phrase whose repetition is looked for


def find_repetition(ids: Sequence[int], *, repeats: int = REPEATS, longest: int = LONGEST) -> list[int]:
    """The shortest phrase of at most ``longest`` tokens that stands ``repeats`` times in a row; [] where there is none.

    A phrase of p tokens stands k times in a row where p × (k - 1) tokens in a row equal those p positions before.

    >>> find_repetition([1, 2, 3, 2, 3, 2, 3, 2, 3]), find_repetition([1, 2, 3, 2, 3, 4])
    ([2, 3], [])
    """
    for period in range(1, min(longest, len(ids) // repeats) + 1):
        run = 0
        for position in range(period, len(ids)):
            run = run + 1 if ids[position] == ids[position - period] else 0
            if run >= period * (repeats - 1):
                first = position - period * repeats + 1
                return list(ids[first : first + period])
    return []


def is_repetitive(ids: Sequence[int], *, repeats: int = REPEATS, longest: int = LONGEST) -> bool:
    """Whether a phrase of an output stands ``repeats`` times in a row.

    >>> is_repetitive([7, 7, 7, 7]), is_repetitive([7, 7, 7])
    (True, False)
    """
    return bool(find_repetition(ids, repeats=repeats, longest=longest))


def repeating_tokens(ids: Tensor, ages: np.ndarray, size: int) -> Tensor | None:
    """The tokens that would repeat an n-gram of ``size`` tokens: [B, R, M], filled up with -1; None: no token would.

    ids [B, R, C], of which the first ``ages`` [B] are real; M n-grams fit into the longest.

    >>> repeating_tokens(torch.tensor([[[5, 6, 5, 0]]]), np.array([3]), 2)
    tensor([[[ 6, -1]]])
    """
    longest = int(ages.max())
    if longest < size:
        return None
    age = torch.as_tensor(ages, device=ids.device)
    windows = ids[:, :, :longest].unfold(2, size, 1)  # [B, R, longest - size + 1, size]
    starts = torch.arange(windows.shape[2], device=ids.device)
    same = (starts[None] + size <= age[:, None])[:, None, :].expand(windows.shape[:3])
    for offset in range(size - 1):  # the hypothesis' last size - 1 tokens against the head of every window
        at = (age - size + 1 + offset).clamp(min=0)[:, None, None].expand(*ids.shape[:2], 1)
        same = same & (windows[..., offset] == ids.gather(2, at))
    return windows[..., -1].masked_fill(~same, -1)
