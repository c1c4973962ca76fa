"""Scores of predicted labels: accuracy with its interval, F1, the confusion matrix. Pure numbers.

C is how many labels there are; a label is its number, 0 to C - 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from regard.errors import RegardError

Z95 = 1.959963984540054  # the 97.5 % quantile of the normal distribution


class LabelScore(NamedTuple):
    """The scores of one label. ``support`` examples have it, ``predicted`` examples got it.

    A precision of no predictions and a recall of no examples are 0.
    """

    label: str
    precision: float
    recall: float
    f1: float
    support: int
    predicted: int


@dataclass(frozen=True)
class LabelScores:
    """The scores of one classification of ``count`` examples.

    ``low`` and ``high`` bound the accuracy at 95 % (Wilson). ``macro_f1`` is the mean F1 of the labels that an example
    has or got, each counted alike. ``confusion`` [C, C] counts examples: a row for each true label, a column for each
    predicted one.
    """

    accuracy: float
    low: float
    high: float
    macro_f1: float
    count: int
    labels: tuple[LabelScore, ...]
    confusion: NDArray[np.int64]


def label_scores(true: ArrayLike, predicted: ArrayLike, labels: Sequence[str]) -> LabelScores:
    """The scores of ``predicted`` labels [N] beside the ``true`` ones [N], both numbers in ``labels`` [C]."""
    matrix = confusion(true, predicted, len(labels))
    count, right = int(matrix.sum()), int(matrix.trace())
    if not count:
        raise RegardError("nothing to score: expected at least one example")
    hits, support, chosen = matrix.diagonal(), matrix.sum(1), matrix.sum(0)  # each [C]
    precision, recall = _share(hits, chosen), _share(hits, support)
    f1 = _share(2 * hits, support + chosen)
    rows = zip(labels, precision.tolist(), recall.tolist(), f1.tolist(), support.tolist(), chosen.tolist(), strict=True)
    low, high = wilson(right, count)
    macro = float(f1[support + chosen > 0].mean())
    return LabelScores(right / count, low, high, macro, count, tuple(LabelScore(*row) for row in rows), matrix)


def confusion(true: ArrayLike, predicted: ArrayLike, count: int) -> NDArray[np.int64]:
    """How many examples with label t were predicted as p, [t, p]: a matrix [C, C] for C = ``count`` labels.

    >>> confusion([0, 0, 1], [0, 1, 1], 2).tolist()
    [[1, 1], [0, 1]]
    """
    rows, columns = (np.asarray(given, dtype=np.int64).reshape(-1) for given in (true, predicted))
    if len(rows) != len(columns):
        raise RegardError(f"{len(rows)} labels and {len(columns)} predictions: expected as many of one as of the other")
    if len(rows) and (min(rows.min(), columns.min()) < 0 or max(rows.max(), columns.max()) >= count):
        raise RegardError(f"a label's number is not among the {count} labels")
    return np.bincount(rows * count + columns, minlength=count * count).reshape(count, count)


def wilson(right: int, count: int, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval (1927) of a share ``right`` / ``count``; 95 % by default.

    >>> [round(bound, 4) for bound in wilson(9, 10)]
    [0.5958, 0.9821]
    """
    share, squared = right / count, z * z
    middle = share + squared / (2 * count)
    reach = z * math.sqrt(share * (1 - share) / count + squared / (4 * count * count))
    low, high = ((middle + side * reach) / (1 + squared / count) for side in (-1, 1))
    return (0.0 if right == 0 else low, 1.0 if right == count else high)


def _share(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    """part / whole, 0 where the whole is 0."""
    return np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)
