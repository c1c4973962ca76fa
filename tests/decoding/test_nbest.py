"""The n best ways to choose a translation of each part, against all ways there are."""

from __future__ import annotations

import itertools
import random

from regard.decoding.nbest import Choice, PartChoices, distinct, n_best_texts, ways
from regard.decoding.running_batch import Hypothesis
from regard.decoding.search import Search
from regard.decoding.waiting import Input


def part(normalized: list[float], name: str) -> PartChoices:
    made = [Choice(f"{name}{n}", Hypothesis([n], value, value)) for n, value in enumerate(normalized)]
    return PartChoices(Input(0, [1]), " ", Search(beam=len(made), n_best=len(made)), made)


def test_the_best_ways_are_those_of_all_ways() -> None:
    draw = random.Random(1)
    for _ in range(50):
        parts = [
            part(sorted((-draw.random() for _ in range(draw.randint(1, 4))), reverse=True), name)
            for name in "abcd"[: draw.randint(1, 4)]
        ]
        n = draw.randint(1, 12)
        found = ways(parts, n)
        every = [sum(c.hypothesis.normalized for c in way) for way in itertools.product(*(p.choices for p in parts))]
        sums = [sum(choice.hypothesis.normalized for choice in way) for way in found]
        wanted = sorted(every, reverse=True)[:n]
        assert len(sums) == len(wanted) and all(abs(a - b) < 1e-9 for a, b in zip(sums, wanted, strict=True))
        assert len({"".join(choice.text for choice in way) for way in found}) == len(found)


def test_texts_that_differ_in_white_space_alone_are_one() -> None:
    found = distinct([Hypothesis([n], -n, -n) for n in range(4)], lambda one: ["a b", "a  b", " a b", "ab"][one.ids[0]])
    assert [choice.text for choice in found] == ["a b", "ab"]


def test_parts_that_are_joined_to_one_text_in_two_ways_are_given_once() -> None:
    parts = [part([-1.0, -2.0], "x"), part([-1.0, -2.0], "y")]
    for one, texts in zip(parts, (["a", "a b"], ["b c", "c"]), strict=True):
        one.choices = [Choice(text, choice.hypothesis) for text, choice in zip(texts, one.choices, strict=True)]
    joined = [" ".join(choice.text for choice in way) for way in ways(parts, 4)]
    assert joined[0] == "a b c" and sorted(joined) == ["a b b c", "a b c", "a c"]


def test_a_wider_search_is_asked_until_there_are_enough_and_the_first_stays() -> None:
    asked = []

    def decode(sources: list[Input], search: Search) -> list[list[Hypothesis]]:
        asked.append(search.beam)
        return [[Hypothesis([n // 3], -0.5 - n, -0.5 - n) for n in range(search.beam)] for _ in sources]

    def text_of(one: Hypothesis) -> str:
        return "same" if one.ids == [99] else str(one.ids[0])

    start = [Choice("same", Hypothesis([99], -1.0, -1.0))]
    found = n_best_texts(
        [[PartChoices(Input(0, [1]), "", Search(beam=2, n_best=2), list(start))]], 5, decode, text_of, 64
    )
    assert asked == [4, 8, 16] and [way[0].text for way in found[0]] == ["same", "0", "1", "2", "3"]
    asked.clear()
    found = n_best_texts(
        [[PartChoices(Input(0, [1]), "", Search(beam=9, n_best=2), list(start))]], 50, decode, text_of, 72
    )
    assert asked == [18, 36, 72] and len(found[0]) == 25, "eight times the beam, and no further"
