"""A tagger: a text in; a tag for each of its words, and the entities that the tags make, out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from regard import limits
from regard.directory import Loaded
from regard.errors import RegardError
from regard.nn.sequences import Tokens
from regard.pipelines.rows import BATCH_TOKENS, computed, longest_text, probabilities, row, text_model_of
from regard.pipelines.word_ids import WordIds, ids_of_text, ids_of_words
from regard.text.parts import Warn

Best = tuple[int, float]  # the number of the most probable tag, and its probability


class TaggedWord(NamedTuple):
    """A word, its tag and the tag's probability; ``start`` and ``end`` are its characters in the text."""

    word: str
    tag: str
    probability: float
    start: int
    end: int


class Entity(NamedTuple):
    """A run of words of one type; ``probability`` is the mean of its words'."""

    text: str
    type: str
    probability: float
    start: int
    end: int


@dataclass(frozen=True)
class Tagged:
    """The tagged words of a text, and its entities."""

    words: tuple[TaggedWord, ...]
    entities: tuple[Entity, ...]


class Tagger:
    """A token-classification model with its tokenizer. ``tagger.model`` is the ``nn.Module``.

    The tag of a word is that of its first subword, as of Hugging Face's ``aggregation_strategy="first"``.
    """

    def __init__(self, loaded: Loaded) -> None:
        self._text_model = text_model_of(loaded, "tagging", "tag words")
        self.model, self.settings, self.tokenizer, self.labels = self._text_model
        self.card, self.path = loaded.card, loaded.path

    def tag(
        self,
        texts: Sequence[str | Sequence[str]] | str,
        *,
        batch_tokens: int = BATCH_TOKENS,
        warn: Warn | None = None,
    ) -> list[Tagged]:
        """The tags of each text; a text that is a list of words is tagged word by word, joined by spaces.

        The words of any other text are those of its tokenizer: BERT's are letters, single signs, single Chinese
        characters. A text that is longer than the model has positions is read in overlapping parts, and ``warn`` is
        called with its number.
        """
        limits.whole("batch tokens", batch_tokens, 1, limits.BATCH)
        given = [texts] if isinstance(texts, str) else list(texts)
        for number, text in enumerate(given, 1):
            words = text if isinstance(text, Sequence) else [text]  # a text is a sequence of its characters
            if not all(isinstance(word, str) for word in words):
                raise RegardError(f"text {number} is {text!r:.60}: expected a text, or a list of words")
        whole = [text if isinstance(text, str) else " ".join(text) for text in given]
        word_ids = [
            ids_of_text(self.tokenizer, text) if isinstance(text, str) else ids_of_words(self.tokenizer, text)
            for text in given
        ]
        found = self._probabilities(word_ids, batch_tokens, warn)
        return [self._tagged(*one) for one in zip(whole, word_ids, found, strict=True)]

    def _probabilities(self, word_ids: list[WordIds], batch_tokens: int, warn: Warn | None) -> list[list[Best]]:
        """For each id of each text its most probable tag and the tag's probability."""
        longest = longest_text(self._text_model)
        rows, places = [], []  # of each row: the text, the first of its ids, and which ids are read from it
        for number, (ids, _, _) in enumerate(word_ids):
            parts = windows(len(ids), longest) if ids else []
            if len(parts) > 1 and warn:
                warn(number, f"has {len(ids):,} subwords, and the model reads {longest:,}: {len(parts)} parts overlap")
            for start, first, last in parts:
                rows.append(row(self.settings, ids[start : start + longest]))
                places.append((number, start, first, last))
        found: list[list[Best]] = [[(0, 0.0)] * len(ids) for ids, _, _ in word_ids]
        for index, scores in computed(self._text_model, rows, lambda tokens, _: self._best(tokens), batch_tokens):
            number, start, first, last = places[index]
            shift = rows[index].first - start
            best = scores[first + shift : last + shift].tolist()  # [last - first, 2]
            found[number][first:last] = [(int(tag), probability) for tag, probability in best]
        return found

    def _best(self, tokens: Tokens) -> Tensor:
        """A batch → [B, T, 2]: the number of the most probable tag, and its probability."""
        best = probabilities(self.model.label_scores(tokens)).max(-1)
        return torch.stack([best.indices.float(), best.values], -1)

    def _tagged(self, text: str, word_ids: WordIds, found: list[Best]) -> Tagged:
        """The words of a text with their tags; a word without any subword (a control character) is outside, O."""
        first: dict[int, int] = {}
        for index, owner in enumerate(word_ids.owner):
            first.setdefault(owner, index)
        words = []
        for number, (start, end) in enumerate(word_ids.words):
            tag, probability = "O", 0.0
            if number in first:
                best, probability = found[first[number]]
                tag = self.labels[best]
            words.append(TaggedWord(text[start:end], tag, probability, start, end))
        return Tagged(tuple(words), entities(words, text))


def windows(length: int, longest: int) -> list[tuple[int, int, int]]:
    """The parts in which ``length`` ids are read, each of ``longest`` at most and overlapping by half of it.

    Each part is (the first id in it, the first and one after the last id that is read from it): where parts overlap,
    an id is read from the part in which it has more context.

    >>> windows(4, 4), windows(9, 4)
    ([(0, 0, 4)], [(0, 0, 3), (2, 3, 5), (4, 5, 6), (5, 6, 9)])
    """
    starts = [*range(0, length - longest, max(1, longest // 2)), max(0, length - longest)]
    edges = [0, *((before + longest + after) // 2 for before, after in pairwise(starts)), length]
    return [(start, first, last) for start, (first, last) in zip(starts, pairwise(edges), strict=True)]


def entities(words: Sequence[TaggedWord], text: str) -> tuple[Entity, ...]:
    """The entities of IOB2 tags: B-T begins one, I-T goes on with one of type T, and begins one after anything else.

    Tags without B- or I- (NOUN) join neighbours of the same tag; O is outside.
    """
    runs: list[tuple[str, list[TaggedWord]]] = []
    last = "O"
    for word in words:
        begins, kind = word.tag.startswith("B-"), word.tag[2:] if word.tag[:2] in ("B-", "I-") else word.tag
        if kind != "O":
            if begins or kind != last:
                runs.append((kind, []))
            runs[-1][1].append(word)
        last = kind
    found = []
    for kind, run in runs:
        start, end = run[0].start, run[-1].end
        mean = sum(word.probability for word in run) / len(run)
        found.append(Entity(text[start:end], kind, mean, start, end))
    return tuple(found)
