"""A classifier: a text, or a pair of texts, in; labels with their probabilities out.

>>> classifier = regard.load("runs/reviews")                     # doctest: +SKIP
>>> classifier.classify(["A film to remember."])[0].label        # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from regard import limits
from regard.config import read_config
from regard.directory import Loaded
from regard.errors import RegardError
from regard.pipelines.given import texts_given
from regard.pipelines.rows import BATCH_TOKENS, Row, computed, longest_text, probabilities, row, text_model_of
from regard.surrogates import without_halves
from regard.text.parts import Warn

RUN = "run.toml"  # the configuration of a run, which stands beside its model


class Label(NamedTuple):
    """A label and its probability."""

    label: str
    probability: float


@dataclass(frozen=True)
class Classification:
    """The most probable label of a text; ``labels`` are the k most probable ones, the best first."""

    label: str
    probability: float
    labels: tuple[Label, ...]


class Classifier:
    """A classification model with its tokenizer. ``classifier.model`` is the ``nn.Module``."""

    def __init__(self, loaded: Loaded) -> None:
        self._text_model = text_model_of(loaded, "classification", "classify texts")
        self.model, self.settings, self.tokenizer, self.labels = self._text_model
        self.card, self.path = loaded.card, loaded.path
        self._of_pairs = _trained_on_pairs(loaded.path)

    def classify(
        self,
        texts: Sequence[str] | str,
        pairs: Sequence[str] | str | None = None,
        *,
        k: int | None = None,
        batch_tokens: int = BATCH_TOKENS,
        warn: Warn | None = None,
    ) -> list[Classification]:
        """The labels of each text; ``pairs`` are the second texts of a model of pairs, one a text.

        ``k``: how many labels are listed; None: all. A text that is longer than the model has positions is cut at its
        end (of a pair the longer text), and ``warn`` is called with its number. A run that was trained on pairs refuses
        texts without them.
        """
        texts = texts_given(texts)
        seconds = None if pairs is None else texts_given(pairs, "second text")
        if seconds is not None and len(seconds) != len(texts):
            raise RegardError(f"{len(texts)} texts and {len(seconds)} second texts: expected as many of each")
        if seconds is None and self._of_pairs:
            raise RegardError(
                f"{self.path}: this model was trained on pairs of texts (data.pair in {RUN}): give the second texts "
                "too (--pair)"
            )
        limits.whole("batch tokens", batch_tokens, 1, limits.BATCH)
        if k is not None:
            limits.whole("k", k, 1, limits.ANY_NUMBER)
        rows = self._rows(texts, seconds, warn)
        found: list[Classification | None] = [None] * len(rows)
        results = computed(
            self._text_model, rows, lambda tokens, _: probabilities(self.model.label_scores(tokens)), batch_tokens
        )
        for number, row_of in results:
            values, order = row_of.sort(descending=True, stable=True)  # [C]
            labels = tuple(Label(self.labels[i], p) for i, p in zip(order.tolist(), values.tolist(), strict=True))
            found[number] = Classification(*labels[0], labels[:k])
        return [one for one in found if one is not None]

    def _rows(self, texts: Sequence[str], seconds: Sequence[str] | None, warn: Warn | None) -> list[Row]:
        """The texts as ids with marks, cut to the model's positions."""
        longest = longest_text(self._text_model, pair=seconds is not None)
        firsts = self.tokenizer.encode_batch([without_halves(text) for text in texts])
        others = (
            [None] * len(firsts)
            if seconds is None
            else self.tokenizer.encode_batch([without_halves(text) for text in seconds])
        )
        rows = []
        for number, (ids, pair) in enumerate(zip(firsts, others, strict=True)):
            length = len(ids) + len(pair or ())
            if length > longest:
                ids, pair = cut(ids, pair, longest)
                if warn:
                    warn(number, f"has {length:,} subwords, and the model reads {longest:,}: the rest is left out")
            rows.append(row(self.settings, ids, pair))
            if not rows[-1].ids:
                raise RegardError(f"text {number + 1} is empty: expected at least one subword to classify")
        return rows


def _trained_on_pairs(folder: Path) -> bool:
    """Whether the folder is a run that says so. Of any other model nothing does: a published one may read both."""
    if not (folder / RUN).is_file():
        return False
    try:
        return bool(read_config(folder / RUN).data.pair)
    except RegardError:  # the model runs without its configuration, which a later regard may read no more
        return False


def cut(ids: list[int], pair: list[int] | None, longest: int) -> tuple[list[int], list[int] | None]:
    """A text, or a pair, cut at the end to ``longest`` ids: the longer of two first, then both alike.

    Which of two keeps one id more follows Hugging Face's truncation ``longest_first``.

    >>> cut([1, 2, 3, 4, 5], [6, 7], 4), cut([1, 2, 3], None, 2)
    (([1, 2], [6, 7]), ([1, 2], None))
    """
    if pair is None:
        return ids[:longest], None
    first_is_longer = len(ids) > len(pair)
    short = min(len(ids), len(pair), longest // 2)
    first, second = (longest - short, short) if first_is_longer else (short, longest - short)
    return ids[:first], pair[:second]
