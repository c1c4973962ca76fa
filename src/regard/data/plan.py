"""Plans: the examples of each batch of an epoch, as a pure function of lengths, seed and epoch.

The position in the data is (epoch, update), on any number of workers. The number of target tokens of an update, by
which its loss is divided, is known before anything is computed.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regard.errors import RegardError

Indices = NDArray[np.int64]

_DRAW, _ORDER = 1, 2  # purposes, so that no two random streams of a plan are the same


@dataclass(frozen=True)
class Update:
    """One step of the optimizer: ``micro[rank]`` are the micro-batches of one worker, arrays of numbers of examples.

    Every worker has ``accumulate`` micro-batches, or fewer if an epoch's batches do not divide evenly; then workers
    differ by one at most. ``target_tokens`` counts those of all workers, end marks included.
    """

    micro: list[list[Indices]]
    target_tokens: int


def plan(
    sizes: NDArray[np.integer],
    targets: NDArray[np.integer],
    *,
    batch_tokens: int,
    accumulate: int = 1,
    ranks: int = 1,
    seed: int,
    epoch: int,
    corpus_of: NDArray[np.integer] | None = None,
    shares: Sequence[float] = (),
) -> list[Update]:
    """The updates of one epoch over n examples.

    ``sizes`` [n] is the length of each example's longest side, ``targets`` [n] how many labels have a loss, marks
    counted in both. In a micro-batch, examples × the largest size is at most ``batch_tokens``. Without ``shares`` each
    example comes exactly once; with them ``draw`` chooses those of each corpus.
    """
    longest = np.asarray(sizes, dtype=np.int64)
    chosen = draw(len(longest), seed=seed, epoch=epoch, corpus_of=corpus_of, shares=shares)
    if not len(chosen):
        return []
    if int(longest[chosen].max()) > batch_tokens:
        worst = int(chosen[longest[chosen].argmax()])
        raise RegardError(
            f"training.batch_tokens = {batch_tokens} is less than the longest example's {int(longest[worst])} "
            f"tokens (number {worst}): raise it, or lower data.max_length"
        )
    random = _random(seed, epoch, _ORDER)
    shuffled = random.permutation(chosen)
    # Sorted by length, so that little is padding; examples of one length stay shuffled, so that batches differ.
    order = shuffled[np.argsort(longest[shuffled], kind="stable")]
    batches = [order[first:last] for first, last in _cut(longest[order], batch_tokens)]
    batches = [batches[index] for index in random.permutation(len(batches))]
    return [_update(group, ranks, targets) for group in _grouped(batches, accumulate * ranks)]


def draw(
    count: int,
    *,
    seed: int,
    epoch: int,
    corpus_of: NDArray[np.integer] | None = None,
    shares: Sequence[float] = (),
) -> Indices:
    """The examples of one epoch.

    A corpus of n examples with share s gives the next s × n of an endless sequence of its permutations, so that every
    example is used before one is repeated.
    """
    if not shares:
        return np.arange(count, dtype=np.int64)
    corpora = np.zeros(count, dtype=np.int64) if corpus_of is None else np.asarray(corpus_of)
    if len(corpora) and int(corpora.max()) >= len(shares):
        raise RegardError(f"data.shares has {len(shares)} numbers, but there are {int(corpora.max()) + 1} corpora")
    parts = []
    for corpus, share in enumerate(shares):
        members = np.flatnonzero(corpora == corpus)
        size = len(members)
        first, last = int(epoch * share * size), int((epoch + 1) * share * size)
        for cycle in range(first // size if size else 0, -(-last // size) if size else 0):
            turn = _random(seed, cycle, _DRAW, corpus).permutation(members)
            parts.append(turn[max(first - cycle * size, 0) : last - cycle * size])
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)


def largest(updates: Sequence[Update], sides: Sequence[NDArray[np.integer]]) -> Indices:
    """The micro-batch with the most positions, padding included, all ``sides`` [n] together."""

    def cells(batch: Indices) -> int:
        return len(batch) * sum(int(side[batch].max()) for side in sides)

    return max((batch for update in updates for rank in update.micro for batch in rank), key=cells)


def _random(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


def _cut(longest: Indices, budget: int) -> Iterator[tuple[int, int]]:
    """Spans [first, last) of examples by ascending length, each as large as ``budget`` allows."""
    first, count = 0, len(longest)
    while first < count:
        # (last - first) × the length of the last example grows with last: bisection finds the largest.
        last = bisect_right(range(first, count), budget, key=lambda at: (at + 1 - first) * int(longest[at])) + first
        yield first, last
        first = last


def _grouped(batches: list[Indices], size: int) -> Iterator[list[Indices]]:
    """Groups of ``size`` batches, or if they do not divide evenly, groups of about equal size, so that none is tiny."""
    count = -(-len(batches) // size)
    for group in range(count):
        yield batches[group * len(batches) // count : (group + 1) * len(batches) // count]


def _update(group: list[Indices], ranks: int, targets: NDArray[np.integer]) -> Update:
    tokens = sum(int(targets[batch].sum()) for batch in group)
    return Update([group[rank::ranks] for rank in range(ranks)], tokens)
