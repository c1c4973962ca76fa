"""Plans: every pair once, within the budget, the same for every reader."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regard.data import plan as plans_of
from regard.data.plan import Update, draw, largest
from regard.errors import RegardError

LENGTHS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=150)


def arrays(lengths: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    table = np.array(lengths, dtype=np.int32).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def plan(source: np.ndarray, target: np.ndarray, **options: Any) -> list[Update]:
    """The plan of pairs whose sides have one mark each."""
    return plans_of.plan(np.maximum(source, target) + 1, target + 1, **options)


def batches(updates: list[Update]) -> list[np.ndarray]:
    return [batch for update in updates for rank in update.micro for batch in rank]


@given(
    lengths=LENGTHS,
    budget=st.integers(41, 400),
    accumulate=st.integers(1, 4),
    ranks=st.integers(1, 3),
    seed=st.integers(0, 5),
    epoch=st.integers(0, 5),
)
def test_each_pair_once_within_the_budget(
    lengths: list[tuple[int, int]], budget: int, accumulate: int, ranks: int, seed: int, epoch: int
) -> None:
    source, target = arrays(lengths)
    given_args = {"batch_tokens": budget, "accumulate": accumulate, "ranks": ranks, "seed": seed, "epoch": epoch}
    updates = plan(source, target, **given_args)
    assert sorted(np.concatenate([[], *batches(updates)]).astype(int)) == list(range(len(lengths)))
    for batch in batches(updates):
        assert len(batch) and len(batch) * (max(source[batch].max(), target[batch].max()) + 1) <= budget
    for update in updates:
        assert len(update.micro) == ranks
        assert all(len(rank) <= accumulate for rank in update.micro)
        sizes = [len(rank) for rank in update.micro]
        assert max(sizes) - min(sizes) <= 1 and max(sizes) == sizes[0]
        inside = [index for rank in update.micro for batch in rank for index in batch]
        assert update.target_tokens == sum(int(target[index]) + 1 for index in inside)
    counts = [sum(map(len, update.micro)) for update in updates]
    assert not counts or max(counts) - min(counts) <= 1
    again = plan(source.copy(), target.copy(), **given_args)
    assert [list(map(int, batch)) for batch in batches(again)] == [list(map(int, batch)) for batch in batches(updates)]


def test_epochs_and_seeds_differ_but_only_a_little_is_padding() -> None:
    random = np.random.default_rng(0)
    source = random.integers(3, 40, 5000)
    target = np.maximum(1, source + random.integers(-4, 5, 5000))
    plans = {
        (seed, epoch): batches(plan(source, target, batch_tokens=1024, seed=seed, epoch=epoch))
        for seed in (1, 2)
        for epoch in (0, 1)
    }
    assert len({tuple(map(tuple, found)) for found in plans.values()}) == 4
    cells = sum(len(batch) * (source[batch].max() + target[batch].max() + 2) for batch in plans[1, 0])
    assert (source + target + 2).sum() / cells > 0.8
    # Similar lengths come together, yet an epoch does not run from short to long.
    lengths = [float(source[batch].mean()) for batch in plans[1, 0]]
    assert lengths != sorted(lengths)


@given(
    sizes=st.lists(st.integers(0, 30), min_size=1, max_size=3),
    shares=st.lists(st.sampled_from([0.1, 0.25, 0.5, 1.0, 1.5, 3.0]), min_size=3, max_size=3),
    seed=st.integers(0, 9),
)
def test_shares_use_all_pairs_in_turn(sizes: list[int], shares: list[float], seed: int) -> None:
    corpus_of = np.repeat(np.arange(len(sizes)), sizes)
    count, epochs = len(corpus_of), 9
    total: Counter[int] = Counter()
    for epoch in range(epochs):
        drawn = draw(count, seed=seed, epoch=epoch, corpus_of=corpus_of, shares=shares)
        again = draw(count, seed=seed, epoch=epoch, corpus_of=corpus_of, shares=shares)
        assert (drawn == again).all()
        for corpus, size in enumerate(sizes):
            here = Counter(map(int, drawn[corpus_of[drawn] == corpus])) if len(drawn) else Counter()
            assert abs(here.total() - shares[corpus] * size) < 1
            # Two turns may meet within an epoch, so that a pair comes once more than the share says, but not twice.
            assert not here or max(here.values()) <= int(np.ceil(shares[corpus])) + 1
        total.update(map(int, drawn))
    for corpus, size in enumerate(sizes):
        members = np.flatnonzero(corpus_of == corpus)
        if size:
            counts = [total[int(index)] for index in members]
            assert max(counts) - min(counts) <= 1
            assert sum(counts) == int(epochs * shares[corpus] * size)


def test_whole_shares_are_every_pair() -> None:
    for epoch in range(3):
        drawn = draw(10, seed=1, epoch=epoch, corpus_of=np.array([0] * 4 + [1] * 6), shares=(1.0, 2.0))
        assert Counter(map(int, drawn)) == Counter(list(range(4)) + 2 * list(range(4, 10)))


def test_plans_with_shares_hold_what_was_drawn() -> None:
    lengths = np.arange(1, 31)
    corpus_of = np.array([0] * 10 + [1] * 20)
    updates = plan(lengths, lengths, batch_tokens=64, seed=3, epoch=2, corpus_of=corpus_of, shares=(2.0, 0.3))
    drawn = draw(30, seed=3, epoch=2, corpus_of=corpus_of, shares=(2.0, 0.3))
    assert sorted(np.concatenate(batches(updates))) == sorted(drawn)


def test_the_largest_batch_has_the_most_cells() -> None:
    random = np.random.default_rng(1)
    source, target = random.integers(0, 60, 500), random.integers(0, 60, 500)
    updates = plan(source, target, batch_tokens=512, accumulate=3, seed=1, epoch=0)
    cells = [len(batch) * (source[batch].max() + target[batch].max() + 2) for batch in batches(updates)]
    found = largest(updates, (source + 1, target + 1))
    assert len(found) * (source[found].max() + target[found].max() + 2) == max(cells)


def test_errors() -> None:
    lengths = np.array([3, 70, 5])
    with pytest.raises(RegardError, match=r"= 50 is less than the longest example's 71 tokens \(number 1\)"):
        plan(lengths, lengths, batch_tokens=50, seed=1, epoch=0)
    with pytest.raises(RegardError, match="shares has 1 numbers, but there are 3 corpora"):
        draw(3, seed=1, epoch=0, corpus_of=np.array([0, 1, 2]), shares=(1.0,))
    assert plan(lengths[:0], lengths[:0], batch_tokens=50, seed=1, epoch=0) == []


def test_a_million_pairs_are_planned_in_seconds() -> None:
    import time

    random = np.random.default_rng(2)
    source, target = random.integers(1, 100, 10**6), random.integers(1, 100, 10**6)
    start = time.process_time()
    updates = plan(source, target, batch_tokens=4096, accumulate=2, ranks=2, seed=1, epoch=0)
    assert time.process_time() - start < 5
    assert sum(len(batch) for batch in batches(updates)) == 10**6
