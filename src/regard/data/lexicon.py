"""IBM Model 1: which target subwords a source subword is translated by, learnt from sentence pairs alone.

Brown et al. 1993, "The Mathematics of Statistical Machine Translation", section 4.1: each target token was made by one
source token, or by none, and every one of them is as likely to have made it as any other. What expectation and
maximisation leave is a table t(target | source).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[Any]
ROUNDS = 5  # of expectation and maximisation
CELLS = 10_000_000  # source × target tokens of the pairs that are learnt from: 1 GB at the most


@dataclass(frozen=True)
class Lexicon:
    """t(``target`` | ``source``) = ``probability``: entries [n] by source, and each source's by falling probability."""

    source: NDArray[np.int64]
    target: NDArray[np.int64]
    probability: NDArray[np.float64]


def model_one(sources: Sequence[Ids], targets: Sequence[Ids], nothing: int, rounds: int = ROUNDS) -> Lexicon:
    """Learn from pairs of ids, thinned out evenly where they are more than memory holds.

    ``nothing`` is an id that stands in no source: what no word of the source made is its.
    """
    kept = _few_enough(sources, targets)
    source, target, place = _cells([(sources[i], targets[i]) for i in kept], nothing)
    # Every two ids that ever met get one number: the entries of the table.
    size = int(target.max(initial=0)) + 1
    keys, entry = np.unique(source * size + target, return_inverse=True)
    of_source, of_target = keys // size, keys % size
    table = np.ones(len(keys))  # any start does that is the same for all
    for _ in range(rounds):
        shares = table[entry]
        shares /= np.bincount(place, shares)[place]
        counts = np.bincount(entry, shares, len(keys))
        table = counts / np.bincount(of_source, counts)[of_source]
    order = np.lexsort((-table, of_source))
    return Lexicon(of_source[order], of_target[order], table[order])


def _few_enough(sources: Sequence[Ids], targets: Sequence[Ids]) -> NDArray[np.int64]:
    """The pairs whose cells fit, taken evenly from all."""
    cells = np.array([(len(one) + 1) * len(other) for one, other in zip(sources, targets, strict=True)])
    step = max(1.0, cells.sum() / CELLS)
    return np.unique(np.arange(0, len(cells), step).astype(np.int64))


def _cells(pairs: Sequence[tuple[Ids, Ids]], nothing: int) -> tuple[Ids, Ids, Ids]:
    """Each target token beside each source token of its sentence and ``nothing``: ids, ids, the target's number."""
    source = [np.repeat(np.append(one, nothing).astype(np.int64), len(other)) for one, other in pairs]
    target = [np.tile(np.asarray(other, np.int64), len(one) + 1) for one, other in pairs]
    ends = np.cumsum([len(other) for _, other in pairs])
    spans = [np.arange(end - len(other), end) for end, (_, other) in zip(ends, pairs, strict=True)]
    place = [np.tile(span, len(one) + 1) for span, (one, _) in zip(spans, pairs, strict=True)]
    empty = [np.empty(0, np.int64)]
    return np.concatenate(source or empty), np.concatenate(target or empty), np.concatenate(place or empty)
