from __future__ import annotations

import random

from regard.decoding.repetition import find_repetition, is_repetitive


def by_hand(ids, repeats, longest):
    for period in range(1, longest + 1):
        for at in range(len(ids) - period * repeats + 1):
            phrase = ids[at : at + period]
            if ids[at : at + period * repeats] == phrase * repeats:
                return phrase
    return []


def test_repetitions_are_found_as_by_hand():
    draw = random.Random(0)
    found = 0
    for _ in range(3000):
        ids = [draw.randrange(2 + draw.randrange(3)) for _ in range(draw.randrange(40))]
        repeats = draw.randint(2, 4)
        expected = by_hand(ids, repeats, 8)
        assert find_repetition(ids, repeats=repeats, longest=8) == expected
        found += bool(expected)
    assert 500 < found < 2900


def test_ordinary_repetition_is_no_fault():
    assert not is_repetitive([])
    assert not is_repetitive([1, 2, 1, 2, 1, 2])
    assert is_repetitive([9, *([1, 2, 3] * 4), 8])
