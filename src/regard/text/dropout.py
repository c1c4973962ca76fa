"""Subword dropout: words are cut differently in each epoch, so that a model learns how pieces are related.

BPE-dropout (Provilkov, Emelianenko and Voita 2020, https://aclanthology.org/2020.acl-main.170): each merge is left out
with a fixed probability while a word is put together. For a unigram vocabulary each piece longer than a character is
left out of the word's lattice with that probability, and the best remaining segmentation is taken.

The sampler of ``tokenizers`` cannot be seeded, and a run must be repeatable from (seed, epoch, index). So each word has
a pool of ``COMMON`` or ``RARE`` samples, drawn from (seed, word, number of the sample) when first needed; a hash of
(seed, epoch, index) chooses the sample for each word of a text. After the first epoch nearly all samples exist.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Callable
from typing import Any

from regard.errors import RegardError
from regard.text.specials import BYTES
from regard.text.tokenizer import Tokenizer

COMMON, RARE = 64, 16  # samples of a word that is one piece, and of any other
_MASK = (1 << 64) - 1
_WORDS = 1 << 16  # words in the cache of pools
_LONG = 64  # characters of the longest sampled word; the time grows with the square

Cut = tuple[int, ...]
Sampler = Callable[[str, Callable[[], float]], Cut]


class SubwordDropout:
    """Encodes with dropout; ``encode`` is a pure function of its arguments and of (tokenizer, probability, seed)."""

    def __init__(self, tokenizer: Tokenizer, probability: float, seed: int) -> None:
        if not 0 <= probability < 1:
            raise RegardError(f"data.subword_dropout = {probability}: expected at least 0 and less than 1")
        if tokenizer.cut is None:
            raise RegardError("data.subword_dropout needs a tokenizer that regard trained; set it to 0")
        self.tokenizer, self.probability = tokenizer, probability
        self._key = hashlib.blake2b(f"subwords {seed}".encode(), digest_size=8).digest()
        self._start = int.from_bytes(self._key, "little")
        self._cut = tokenizer.cut
        self._pools: dict[str, list[Cut | None]] = {}
        self._same: dict[Cut, Cut] = {}  # one object for equal samples
        model = tokenizer.description["model"]
        self._sample = _merges(model, probability) if model["type"] == "BPE" else _lattice(model, probability)

    def encode(self, text: str, epoch: int, index: int) -> list[int]:
        """The ids of sentence number ``index`` in an epoch."""
        pools = self._pools
        state = _mixed(self._start ^ _mixed(epoch * 0x9E3779B97F4A7C15 + index + 1))
        ids: list[int] = []
        for word in self._cut(self.tokenizer.normalize(text)):
            # A linear congruential generator (Knuth's MMIX constants), whose high bits are the random ones.
            state = (state * 6364136223846793005 + 1442695040888963407) & _MASK
            pool = pools.get(word) or self._pool(word)
            place = (state >> 32) % len(pool)
            ids += pool[place] or self._draw(word, pool, place)
        return ids

    def _pool(self, word: str) -> list[Cut | None]:
        """A new pool, still without samples; for a character or a long word, the usual cut alone."""
        whole = tuple(self.tokenizer.encode_word(word))
        pool: list[Cut | None] = [whole]
        if 1 < len(word) <= _LONG:
            pool = [None] * (COMMON if len(whole) == 1 else RARE)
        if len(self._pools) >= _WORDS:
            self._pools.clear()
            self._same.clear()
        self._pools[word] = pool
        return pool

    def _draw(self, word: str, pool: list[Cut | None], place: int) -> Cut:
        """Draw sample number ``place`` of a word, and keep it in its pool."""
        digest = hashlib.blake2b(f"{place} {word}".encode(), key=self._key, digest_size=8).digest()
        cut = self._sample(word, random.Random(int.from_bytes(digest, "little")).random)
        pool[place] = cut = self._same.setdefault(cut, cut)
        return cut


def _mixed(value: int) -> int:
    """A 64-bit hash of a number (the finalizer of SplitMix64)."""
    value &= _MASK
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    value = (value ^ value >> 27) * 0x94D049BB133111EB & _MASK
    return value ^ value >> 31


def _merges(model: dict[str, Any], probability: float) -> Sampler:
    """Algorithm 1 of the paper: of the merges not left out, the one learnt first is applied, until none is left."""
    vocabulary: dict[str, int] = model["vocab"]
    # Pair of ids → rank of the merge; rank → id of the merged piece.
    ranked = {(vocabulary[left], vocabulary[right]): rank for rank, (left, right) in enumerate(model["merges"])}
    made = [vocabulary[left + right] for left, right in model["merges"]]
    rank_of, never = ranked.get, len(made)
    single = _characters(vocabulary)

    def sample(word: str, uniform: Callable[[], float]) -> Cut:
        ids = [index for character in word for index in single(character)]
        ranks = [rank_of(pair, never) for pair in itertools.pairwise(ids)]  # of neighbouring ids
        while ranks:
            # Dropout is drawn only for the best merge left; for others it does not matter.
            open_ranks = ranks
            while (best := min(open_ranks)) != never and uniform() < probability:
                open_ranks = open_ranks.copy()
                open_ranks[open_ranks.index(best)] = never
            if best == never:
                break
            at = open_ranks.index(best)
            ids[at : at + 2] = [made[best]]
            del ranks[at]
            if at > 0:
                ranks[at - 1] = rank_of((ids[at - 1], ids[at]), never)
            if at < len(ranks):
                ranks[at] = rank_of((ids[at], ids[at + 1]), never)
        return tuple(ids)

    return sample


def _lattice(model: dict[str, Any], probability: float) -> Sampler:
    """The best segmentation of a word (Viterbi) with the pieces that are not left out."""
    entries: list[tuple[str, float]] = model["vocab"]
    vocabulary = {piece: index for index, (piece, _) in enumerate(entries)}
    scores = [float(score) for _, score in entries]
    single = _characters(vocabulary)
    unknown = min(scores) - 10.0  # the library's score for a character without a piece
    longest = max(len(piece) for piece in vocabulary)

    def sample(word: str, uniform: Callable[[], float]) -> Cut:
        # best[end] = (score, start of the last piece, its ids) of the best way to cut word[:end]
        best: list[tuple[float, int, Cut]] = [(0.0, 0, ())]
        for end in range(1, len(word) + 1):
            ids = single(word[end - 1])
            score = scores[ids[0]] if len(ids) == 1 else unknown
            top = (best[end - 1][0] + score, end - 1, ids)
            for start in range(max(0, end - longest), end - 1):
                piece = vocabulary.get(word[start:end])
                if piece is None or uniform() < probability:
                    continue
                if best[start][0] + scores[piece] > top[0]:
                    top = (best[start][0] + scores[piece], start, (piece,))
            best.append(top)
        cuts, end = [], len(word)
        while end:
            _, start, ids = best[end]
            cuts.append(ids)
            end = start
        return tuple(index for ids in reversed(cuts) for index in ids)

    return sample


def _characters(vocabulary: dict[str, int]) -> Callable[[str], Cut]:
    """A function from a character to its id, or to the ids of its bytes."""
    byte_ids = [vocabulary[name] for name in BYTES]

    def single(character: str) -> Cut:
        index = vocabulary.get(character)
        return (index,) if index is not None else tuple(byte_ids[byte] for byte in character.encode())

    return single
