"""The n best translations of a text as n different texts, also where the text is translated in parts.

Several sequences of subwords may spell one text. Where fewer than n texts differ, the search is repeated with a beam
twice as wide, until there are n, or no more, or the beam is at its widest. The first translation stays the first.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from regard import limits
from regard.decoding.running_batch import Hypothesis
from regard.decoding.search import Search
from regard.decoding.waiting import Input

TIMES, LEAST = 8, 64  # the widest beam of a search for more texts: so many times the beam, or this if it is more

Decode = Callable[[list[Input], Search], list[list[Hypothesis]]]


class Choice(NamedTuple):
    """A hypothesis and its text."""

    text: str
    hypothesis: Hypothesis


@dataclass
class PartChoices:
    """A part of a text: the input, the search by which it was decoded, its choices, and the text that follows it."""

    input: Input
    after: str
    search: Search
    choices: list[Choice]
    exhausted: bool = False  # a wider search finds no more


def widest(search: Search, longest: int, vocabulary: int) -> int:
    """The widest beam that is tried where too few texts differ, for inputs of at most ``longest`` subwords."""
    output = longest + max(0, search.max_extra) if search.max_tokens is None else search.max_tokens
    length = max(longest, output) + limits.PREFIX_TOKENS + 1
    room = min(limits.BEAM, limits.SCORES // vocabulary, limits.HYPOTHESIS_TOKENS // length)
    return max(search.beam, min(room, max(TIMES * search.beam, LEAST)))


def distinct(hypotheses: Sequence[Hypothesis], text_of: Callable[[Hypothesis], str]) -> list[Choice]:
    """The best hypothesis of each text, in their order; texts that differ in white space alone are one."""
    found: dict[str, Choice] = {}
    for one in hypotheses:
        text = text_of(one)
        found.setdefault(" ".join(text.split()), Choice(text, one))
    return list(found.values())


def n_best_texts(
    texts: Sequence[Sequence[PartChoices]], n: int, decode: Decode, text_of: Callable[[Hypothesis], str], most: int
) -> list[list[list[Choice]]]:
    """The n best translations of each text, best first, each as one choice a part; fewer where no more are found.

    ``texts`` are lists of parts, whose ``choices`` a wider search extends; ``most`` is the ``widest`` beam.
    """
    found = [ways(parts, n) for parts in texts]
    beam = max((part.search.beam for parts in texts for part in parts), default=1)
    while beam < most:
        lacking = [i for i, of_text in enumerate(found) if len(of_text) < n]
        again = [part for i in lacking for part in texts[i] if part.input.source and not part.exhausted]
        if not again:
            break
        beam = min(2 * beam, most)
        _widen(again, beam, decode, text_of)
        for i in lacking:
            found[i] = ways(texts[i], n)
    return found


def _widen(parts: Sequence[PartChoices], beam: int, decode: Decode, text_of: Callable[[Hypothesis], str]) -> None:
    """Decode parts again with a wider beam; the first choice stays first, the others are ordered by score."""
    for search in dict.fromkeys(part.search for part in parts):
        mine = [part for part in parts if part.search == search]
        wider = replace(search, beam=beam, n_best=beam)
        for part, more in zip(mine, decode([part.input for part in mine], wider), strict=True):
            first, *rest = [choice.hypothesis for choice in part.choices]
            rest = sorted([*rest, *more], key=lambda one: -one.normalized)
            part.choices = distinct([first, *rest], text_of)
            part.exhausted = len(more) < beam


def ways(parts: Sequence[PartChoices], n: int) -> list[list[Choice]]:
    """The n best ways to choose one of each part so that the texts differ.

    Ways are ranked by the sum over parts of (score of the first choice - score of the chosen one), least first; so the
    first way is the first choice of each part.
    """
    best: list[tuple[float, tuple[tuple[int, int], ...]]] = [(0.0, ())]  # the sum; (part, choice) but for firsts
    count = n if len(parts) == 1 else 2 * n  # parts may be joined to one text in several ways
    for index, part in enumerate(parts):
        first = part.choices[0].hypothesis.normalized
        lost = [max(0.0, first - choice.hypothesis.normalized) for choice in part.choices[:count]]
        # `best` and `lost` ascend, so at least (j + 1) (k + 1) - 1 pairs come before pair (j, k), counted from 0. Where
        # that is `count` or more the pair is not among the best: the slice of `lost` leaves such pairs out.
        best = heapq.nsmallest(
            count,
            (
                (sum_lost + more, (*way, (index, number)) if number else way)
                for rank, (sum_lost, way) in enumerate(best)
                for number, more in enumerate(lost[: count // (rank + 1)])
            ),
            key=lambda one: one[0],
        )
    found: dict[str, list[Choice]] = {}
    for _, way in best:
        numbers = dict(way)
        chosen = [part.choices[numbers.get(index, 0)] for index, part in enumerate(parts)]
        text = "".join(choice.text + part.after for choice, part in zip(chosen, parts, strict=True))
        if len(found) < n:
            found.setdefault(" ".join(text.split()), chosen)
    return list(found.values())
