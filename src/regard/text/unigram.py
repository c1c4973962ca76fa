"""Learns unigram vocabularies (Kudo 2018, https://aclanthology.org/P18-1007) with NumPy arrays.

The library's trainer sums in an order that changes from process to process, so that its vocabularies differ; here the
same words give the same bytes. The text is the concatenation of the different words, ``M`` characters;
``table[length - 1][i]`` is the number of the piece of ``length`` characters from position ``i``, or -1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

LONGEST = 16  # characters of a piece
_CHARACTERS = 3_000_000  # of the commonest words, which are used
_SEEDS = 1_000_000
_SHRINK = 0.75  # share of the pieces kept in each round
_NOTHING = -1e30  # log of probability 0; infinity would give NaN in differences

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def learn_pieces(words: Mapping[str, int], alphabet: list[str], room: int) -> list[tuple[str, float]]:
    """At most ``room`` pieces with their log-probabilities, best first; every character of ``alphabet`` is one."""
    corpus = _Corpus(words, alphabet)
    scores = np.log(corpus.counts / corpus.counts.sum())
    while True:
        for _ in range(2):
            expected = corpus.expect(scores)
            scores = _log_means(np.maximum(expected, 0.1))
        if len(scores) <= room:
            break
        keep = max(room, int(_SHRINK * len(scores)))
        loss = expected * (scores - corpus.without(scores))
        loss[: len(alphabet)] = np.inf  # all characters are kept
        loss[(expected < 0.5) & (loss < np.inf)] = 0.0
        chosen = np.sort(np.argsort(-loss, kind="stable")[:keep])
        corpus.select(chosen)
        scores = scores[chosen]
    pieces = [(corpus.piece(index), round(float(score), 6)) for index, score in enumerate(scores)]
    return sorted(pieces, key=lambda item: (-item[1], item[0]))


class _Corpus:
    """The words as arrays. Pieces are numbered, the alphabet first; ``counts`` holds their counts in the corpus."""

    def __init__(self, words: Mapping[str, int], alphabet: list[str]) -> None:
        chosen, size = [], 0
        for word, times in sorted(words.items(), key=lambda item: (-item[1], item[0])):
            if size >= _CHARACTERS:
                break
            chosen.append((word, times))
            size += len(word)
        chosen.sort(key=lambda item: -len(item[0]))  # words of at least some length come first
        number = {character: index for index, character in enumerate(alphabet)}
        self.text = "".join(word for word, _ in chosen)
        self.lengths: Ints = np.array([len(word) for word, _ in chosen], dtype=np.int64)
        self.times: Floats = np.array([times for _, times in chosen], dtype=np.float64)
        self.starts: Ints = np.cumsum(self.lengths) - self.lengths
        self.letters: Ints = np.array([number[character] for character in self.text], dtype=np.int64)
        self.word_of: Ints = np.repeat(np.arange(len(chosen)), self.lengths)
        self.left: Ints = (self.starts + self.lengths)[self.word_of] - np.arange(len(self.text))
        self._find_seeds(len(alphabet))

    def _find_seeds(self, characters: int) -> None:
        """Number the strings of up to ``LONGEST`` characters that occur at least twice, at most ``_SEEDS``."""
        weights = self.times[self.word_of]
        table = [self.letters.astype(np.int32)]
        counts = [np.maximum(np.bincount(self.letters, weights, characters), 1.0)]
        places = [np.zeros(characters, dtype=np.int64)]
        places[0][self.letters] = np.arange(len(self.text))
        total, previous = characters, self.letters  # numbers among the strings one shorter
        for length in range(2, LONGEST + 1):
            here = np.flatnonzero((self.left >= length) & (previous >= 0))
            keys = previous[here] * characters + self.letters[here + length - 1]
            _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
            count = np.bincount(inverse, weights[here], len(first))
            often = count >= 2
            number = np.where(often, np.cumsum(often) - 1, -1)
            previous = np.full(len(self.text), -1, dtype=np.int64)
            previous[here] = number[inverse]
            table.append(np.where(previous >= 0, previous + total, -1).astype(np.int32))
            counts.append(count[often])
            places.append(here[first[often]])
            total += int(often.sum())
        self.table: list[NDArray[np.int32]] = table
        self.counts: Floats = np.concatenate(counts)
        self.places: Ints = np.concatenate(places)  # position of one occurrence of each piece
        self.sizes: Ints = np.repeat(np.arange(1, LONGEST + 1), [len(count) for count in counts])
        worth = self.counts * self.sizes
        worth[:characters] = np.inf
        self.select(np.sort(np.argsort(-worth, kind="stable")[:_SEEDS]))

    def select(self, chosen: Ints) -> None:
        """Keep these pieces, renumbered in this order."""
        number = np.full(len(self.counts) + 1, -1, dtype=np.int32)  # index -1 reaches the last entry, which stays -1
        number[chosen] = np.arange(len(chosen), dtype=np.int32)
        self.table = [number[row] for row in self.table]
        self.counts, self.places, self.sizes = self.counts[chosen], self.places[chosen], self.sizes[chosen]

    def piece(self, index: int) -> str:
        """The text of a piece."""
        first = int(self.places[index])
        return self.text[first : first + int(self.sizes[index])]

    def expect(self, scores: Floats) -> Floats:
        """The expected count of each piece over all segmentations of the words (forward-backward algorithm)."""
        scored = np.append(scores, _NOTHING)
        # Node n of a word lies between its characters n - 1 and n; the nodes of all words are concatenated.
        nodes = self.starts + np.arange(len(self.starts))
        forward = np.full(len(self.text) + len(self.starts), _NOTHING)
        backward = forward.copy()
        forward[nodes] = 0.0
        backward[nodes + self.lengths] = 0.0
        for end in range(1, int(self.lengths[0]) + 1):
            active = int(np.searchsorted(-self.lengths, -end, side="right"))  # words with at least `end` characters
            first, node, last = self.starts[:active], nodes[:active], self.lengths[:active]
            size = min(end, LONGEST)
            ways = [forward[node + end - n] + scored[self.table[n - 1][first + end - n]] for n in range(1, size + 1)]
            forward[node + end] = _log_sum(np.stack(ways))
            at = last - end  # backward: node `at` of a word, `end` characters before its end
            ways = [backward[node + at + n] + scored[self.table[n - 1][first + at]] for n in range(1, size + 1)]
            backward[node + at] = _log_sum(np.stack(ways))
        whole = forward[nodes + self.lengths]
        expected = np.zeros(len(scores))
        place = np.arange(len(self.text)) + self.word_of  # the node before each character
        for length, row in enumerate(self.table, 1):
            here = np.flatnonzero(row >= 0)
            word, piece, node = self.word_of[here], row[here], place[here]
            chance = np.exp(forward[node] + scores[piece] + backward[node + length] - whole[word])
            expected += np.bincount(piece, chance * self.times[word], len(scores))
        return expected

    def without(self, scores: Floats) -> Floats:
        """The score of each piece's best segmentation into shorter pieces (Viterbi)."""
        scored = np.append(scores, _NOTHING)
        best = np.full((LONGEST + 1, len(scores)), _NOTHING)
        best[0] = 0.0
        for end in range(1, LONGEST + 1):
            long = np.flatnonzero(self.sizes >= end)
            for length in range(1, end + 1):
                way = best[end - length, long] + scored[self.table[length - 1][self.places[long] + end - length]]
                if length == end:
                    way[self.sizes[long] == end] = _NOTHING
                best[end, long] = np.maximum(best[end, long], way)
        return np.asarray(best[self.sizes, np.arange(len(scores))])


def _log_sum(ways: Floats) -> Any:
    """log Σ exp over axis 0."""
    top = ways.max(axis=0)
    return top + np.log(np.exp(ways - top).sum(axis=0))


def _log_means(expected: Floats) -> Floats:
    """Log-probabilities from expected counts, the mean under a sparse Dirichlet prior, which removes rare pieces."""
    return _digamma(expected) - _digamma(np.array([expected.sum()]))


def _digamma(x: Floats) -> Floats:
    """The derivative of log Γ, by its recurrence up to 7 and its series from there."""
    result = np.zeros_like(x)
    x = x.copy()
    while (low := x < 7).any():
        result[low] -= 1 / x[low]
        x[low] += 1
    square = 1 / (x * x)
    series = square * (1 / 12 - square * (1 / 120 - square * (1 / 252 - square / 240)))
    return np.asarray(result + np.log(x) - 0.5 / x - series)
