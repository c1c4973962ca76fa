"""IBM Model 1: a toy language's dictionary, and the paper's equations written out."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regard.data import lexicon
from regard.data.lexicon import model_one

NOTHING = 99
SENTENCE = st.lists(st.integers(0, 5), max_size=4)


def table(found: lexicon.Lexicon) -> dict[tuple[int, int], float]:
    entries = zip(found.source.tolist(), found.target.tolist(), found.probability.tolist(), strict=True)
    return {(source, target): value for source, target, value in entries}


def by_hand(pairs: list[tuple[list[int], list[int]]], rounds: int) -> dict[tuple[int, int], float]:
    """Brown et al. 1993, section 4.1, in loops."""
    t = {(s, f): 1.0 for source, target in pairs for s in (*source, NOTHING) for f in target}
    for _ in range(rounds):
        counts = dict.fromkeys(t, 0.0)
        for source, target in pairs:
            for f in target:
                every = sum(t[s, f] for s in (*source, NOTHING))
                for s in (*source, NOTHING):
                    counts[s, f] += t[s, f] / every
        t = {
            (s, f): count / sum(c for (other, _), c in counts.items() if other == s) for (s, f), count in counts.items()
        }
    return t


@given(pairs=st.lists(st.tuples(SENTENCE, SENTENCE), max_size=6), rounds=st.integers(1, 4))
def test_the_lexicon_is_the_papers(pairs: list[tuple[list[int], list[int]]], rounds: int) -> None:
    found = table(model_one([np.array(x) for x, _ in pairs], [np.array(x) for _, x in pairs], NOTHING, rounds))
    assert found == pytest.approx(by_hand(pairs, rounds), rel=1e-9)  # fp64, sums in another order


def test_each_sources_likeliest_come_first() -> None:
    draw = random.Random(1)
    sources = [draw.sample(range(10), 4) for _ in range(300)]
    targets = [draw.sample([word + 20 for word in words], 4) for words in sources]
    found = model_one([np.array(x) for x in sources], [np.array(x) for x in targets], NOTHING)
    assert (np.diff(found.source) >= 0).all()
    for word in range(10):
        mine = found.source == word
        assert found.target[mine][0] == word + 20
        assert (np.diff(found.probability[mine]) <= 0).all() and found.probability[mine].sum() == pytest.approx(1)


def test_more_than_memory_holds_is_thinned_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lexicon, "CELLS", 100)
    sources = [np.array([1, 2])] * 50 + [np.array([3, 4])] * 50
    assert set(model_one(sources, sources, NOTHING).source.tolist()) == {1, 2, 3, 4, NOTHING}
