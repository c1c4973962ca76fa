"""The n best translations of a text as n different texts, also where the text is translated in parts.

Several rows of subwords may be one text. Where fewer than n texts are left, the search is done again with a beam twice
as wide, until there are n, or no more, or the beam is at its widest. The first stays the first.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from regard import limits
from regard.decoding.flight import Hypothesis
from regard.decoding.search import Search

TIMES, LEAST = 8, 64  # a search for more texts goes up to so many times the beam, and at least as wide as this

Decode = Callable[[list[list[int]], Search], list[list[Hypothesis]]]


class Choice(NamedTuple):
    """A hypothesis and its text."""

    text: str
    hypothesis: Hypothesis


@dataclass
class Piece:
    """A part of a text: its ids, the search by which it was decoded, the choices that there are, and what follows."""

    ids: list[int]
    after: str
    search: Search
    choices: list[Choice]
    exhausted: bool = False  # no search finds more


def widest(search: Search, longest: int, vocabulary: int) -> int:
    """The widest beam that is tried where one has found too few texts for inputs of at most ``longest`` subwords."""
    length = longest + max(0, search.max_extra) + limits.PREFIX + 1
    room = min(limits.BEAM, limits.SCORES // vocabulary, limits.PLACES // length)
    return max(search.beam, min(room, max(TIMES * search.beam, LEAST)))


def distinct(hypotheses: Sequence[Hypothesis], text_of: Callable[[Hypothesis], str]) -> list[Choice]:
    """The best hypothesis of each text, in their order; texts that differ in white space alone are one."""
    found: dict[str, Choice] = {}
    for one in hypotheses:
        text = text_of(one)
        found.setdefault(" ".join(text.split()), Choice(text, one))
    return list(found.values())


def n_best_texts(
    texts: Sequence[Sequence[Piece]], n: int, decode: Decode, text_of: Callable[[Hypothesis], str], most: int
) -> list[list[list[Choice]]]:
    """Of each text the n best different ways to choose one of each part, the best first; fewer where there are none.

    ``texts`` are given as their pieces, whose choices become more where that is needed; ``most``: the ``widest`` beam.
    """
    found = [ways(pieces, n) for pieces in texts]
    beam = max((piece.search.beam for pieces in texts for piece in pieces), default=1)
    while beam < most:
        lacking = [i for i, of_text in enumerate(found) if len(of_text) < n]
        again = [piece for i in lacking for piece in texts[i] if piece.ids and not piece.exhausted]
        if not again:
            break
        beam = min(2 * beam, most)
        _widen(again, beam, decode, text_of)
        for i in lacking:
            found[i] = ways(texts[i], n)
    return found


def _widen(pieces: Sequence[Piece], beam: int, decode: Decode, text_of: Callable[[Hypothesis], str]) -> None:
    """Decode pieces again with a wider beam; what it finds comes behind the first choice, best first."""
    for search in dict.fromkeys(piece.search for piece in pieces):
        mine = [piece for piece in pieces if piece.search == search]
        wider = replace(search, beam=beam, n_best=beam)
        for piece, more in zip(mine, decode([piece.ids for piece in mine], wider), strict=True):
            first, *rest = [choice.hypothesis for choice in piece.choices]
            rest = sorted([*rest, *more], key=lambda one: -one.normalized)
            piece.choices = distinct([first, *rest], text_of)
            piece.exhausted = len(more) < beam


def ways(pieces: Sequence[Piece], n: int) -> list[list[Choice]]:
    """The n best ways to choose one of each part so that the texts differ: by what all lose against their first.

    The first way is the first choice of each part; the others are ranked by the same sum.
    """
    best: list[tuple[float, tuple[tuple[int, int], ...]]] = [(0.0, ())]  # what is lost; (part, choice) but for firsts
    count = n if len(pieces) == 1 else 2 * n  # parts may be joined to one text in several ways
    for part, piece in enumerate(pieces):
        first = piece.choices[0].hypothesis.normalized
        lost = [max(0.0, first - choice.hypothesis.normalized) for choice in piece.choices[:count]]
        # Both ascend: before the j-th of one with the k-th of the other come (j + 1) (k + 1) - 1 pairs.
        best = heapq.nsmallest(
            count,
            (
                (sum_lost + more, (*way, (part, place)) if place else way)
                for rank, (sum_lost, way) in enumerate(best)
                for place, more in enumerate(lost[: count // (rank + 1)])
            ),
            key=lambda one: one[0],
        )
    found: dict[str, list[Choice]] = {}
    for _, way in best:
        places = dict(way)
        chosen = [piece.choices[places.get(part, 0)] for part, piece in enumerate(pieces)]
        text = "".join(choice.text + piece.after for choice, piece in zip(chosen, pieces, strict=True))
        if len(found) < n:
            found.setdefault(" ".join(text.split()), chosen)
    return list(found.values())
