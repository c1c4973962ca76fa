"""A translator: text in, text out, around a model that knows ids only.

>>> translator = regard.load("zh-en")                          # doctest: +SKIP
>>> translator.translate(["我爱机器学习"], beam=5)[0].text     # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regard import limits
from regard.config import DecodingConfig
from regard.decoding.alignments import alignments as align
from regard.decoding.backends import build_backend
from regard.decoding.engine import Hypothesis, Search
from regard.decoding.nbest import Choice, PartChoices, distinct, n_best_texts, widest
from regard.decoding.repetition import find_repetition
from regard.decoding.scoring import forced_scores
from regard.directory import TEXT, Loaded
from regard.errors import RegardError
from regard.pipelines.lines import shifted, texts_of, without_breaks
from regard.pipelines.results import TextScore, Translation, joined
from regard.surrogates import without_halves
from regard.text.marks import source_marks, target_start
from regard.text.parts import Part, Warn, parts_of

NO_REPEAT = 3  # no three tokens twice, where an output that repeats itself is decoded again


class Translator:
    """A translation model with its tokenizers. ``translator.model`` is the ``nn.Module``; ``backend`` decodes."""

    def __init__(
        self,
        loaded: Loaded,
        decoding: DecodingConfig | None = None,
        backend: str = "regard",
        shortlist: str | Path = "",
    ) -> None:
        self.model = loaded.model
        self.backend = build_backend(backend, loaded, shortlist)
        self.settings, self.tokenizer, self.target_tokenizer = loaded.text
        self.card, self.path = loaded.card, loaded.path
        self.decoding = decoding or _decoding_of(loaded)
        if not self.model.has_source:
            raise RegardError(
                f"{loaded.path}: this model has no source language: it continues texts, it does not translate"
            )

    def translate(
        self,
        texts: Sequence[str] | str,
        *,
        beam: int | None = None,
        n_best: int | None = None,
        length_penalty: str | float | None = None,
        max_extra: int | None = None,
        stopping: str | None = None,
        no_repeat_ngram: int = 0,
        no_repeat: bool | None = None,
        batch_tokens: int | None = None,
        alignments: bool = False,
        warn: Warn | None = None,
        parts: list[list[Part]] | None = None,
    ) -> list[Translation]:
        """Translate each text. Options that are not given are those of ``self.decoding``.

        The ``n_best`` differ as texts; where a beam finds fewer, wider ones are tried. A text that is longer than the
        model has learnt is translated in parts. An output that repeats itself or does not end is decoded again, unless
        ``no_repeat`` is False. ``warn`` is called with the number of the text and a remark on each of these.
        A text of white space gives "". ``parts`` is ``self.parts(texts)``, if the caller has it already.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        given = self.decoding
        if batch_tokens is not None:
            limits.whole("batch tokens", batch_tokens, 1, limits.BATCH)
        search = self.search(beam, n_best, length_penalty, max_extra, stopping, no_repeat_ngram)
        batch_tokens = batch_tokens or given.batch_tokens
        parts = self.parts(texts, warn) if parts is None else parts
        owner = [line for line, of_line in enumerate(parts) for _ in of_line]
        sources = [part.ids for of_line in parts for part in of_line]
        hypotheses = self._decode(sources, search, batch_tokens)
        searches = [search] * len(sources)
        if no_repeat if no_repeat is not None else given.no_repeat:
            self._decode_repetitions_again(sources, hypotheses, searches, owner, batch_tokens, warn)
        weights: list[NDArray[np.float32]] | None = None
        if alignments:
            winners = [n_best_of[0].ids for n_best_of in hypotheses]
            weights = align(self.model, sources, winners, self.settings, batch_tokens=batch_tokens)
        chosen = self._n_best(parts, hypotheses, searches, search.n_best, batch_tokens, warn)
        found, at = [], 0
        for of_line, ways in zip(parts, chosen, strict=True):
            until = at + len(of_line)
            mine = None if weights is None else weights[at:until]
            found.append(joined(of_line, ways, search.length_penalty, mine, self.tokenizer, self.target_tokenizer))
            at = until
        return found

    def stream(self, lines: Iterable[str | bytes], *, ahead: int = 1024, **options: Any) -> Iterator[Translation]:
        """Translates line by line, reading at most ``ahead`` lines (or 1 MB) more than it has given back.

        Line N of the output is that of line N of the input, and no ``text`` has a line break in it. Bytes that are not
        UTF-8 become U+FFFD. Options and ``warn`` are those of ``translate``; lines are counted from 0.
        """
        warn: Warn | None = options.pop("warn", None)
        first = 0
        for texts in texts_of(lines, ahead, warn):
            said = None if warn is None else shifted(warn, first)
            yield from self.translate(texts, warn=said, **options)
            first += len(texts)

    def score(
        self, sources: Sequence[str], targets: Sequence[str], *, batch_tokens: int | None = None
    ) -> list[TextScore]:
        """The log-probabilities of given translations."""
        if len(sources) != len(targets):
            raise RegardError(
                f"{len(sources)} sources and {len(targets)} targets: expected as many of one as of the other"
            )
        if batch_tokens is not None:
            limits.whole("batch tokens", batch_tokens, 1, limits.BATCH)
        source_ids = self.tokenizer.encode_batch([without_halves(text) for text in sources])
        target_ids = self.target_tokenizer.encode_batch([without_halves(text) for text in targets])
        self._check_positions("source", source_ids, self._around)
        self._check_positions("target", target_ids, len(target_start(self.settings)))
        scored = forced_scores(
            self.model,
            source_ids,
            target_ids,
            self.settings,
            batch_tokens=batch_tokens or self.decoding.batch_tokens,
        )
        return [
            TextScore(one.score, one.token_scores, self.target_tokenizer.tokens(ids))
            for one, ids in zip(scored, target_ids, strict=True)
        ]

    def _check_positions(self, side: str, rows: Sequence[Sequence[int]], marks: int) -> None:
        """Refuse texts that are too long to be scored; unlike texts to translate, they cannot be split."""
        longest = self.model.longest
        for number, ids in enumerate(rows, start=1):
            if longest is not None and len(ids) + marks > longest:
                raise RegardError(
                    f"{side} {number}: {len(ids)} subwords are too long to be scored: the model has learnt "
                    f"{longest} positions, marks included"
                )
            if len(ids) > limits.LENGTH:
                raise RegardError(
                    f"{side} {number}: {len(ids):,} subwords are too long to be scored: expected at most "
                    f"{limits.LENGTH:,}"
                )

    def search(
        self,
        beam: int | None = None,
        n_best: int | None = None,
        length_penalty: str | float | None = None,
        max_extra: int | None = None,
        stopping: str | None = None,
        no_repeat_ngram: int = 0,
    ) -> Search:
        """The search with these options; those that are not given are those of ``self.decoding``."""
        given = self.decoding
        search = Search(
            beam=given.beam if beam is None else beam,
            n_best=given.n_best if n_best is None else n_best,
            length_penalty=given.length_penalty if length_penalty is None else length_penalty,  # type: ignore[arg-type]
            max_extra=given.max_extra if max_extra is None else max_extra,
            stopping=given.stopping if stopping is None else stopping,  # type: ignore[arg-type]
            no_repeat_ngram=no_repeat_ngram,
        )
        limits.product("beam × vocabulary", search.beam, self.target_tokenizer.size, limits.SCORES)
        return search

    def parts(self, texts: Sequence[str], warn: Warn | None = None, most: int | None = None) -> list[list[Part]]:
        """Each text as parts that are short enough for the model; none where there is nothing but white space.

        Lines of a text are parts of their own. Raises TooMuch where more than ``most`` parts are to be translated; a
        text that is much longer is refused before it is cut, since cutting takes longer than tokenizing it once.
        """
        return parts_of(texts, self.tokenizer, self._longest, self.settings.target, warn, most)

    @property
    def _longest(self) -> int:
        """The most subwords of a source that is translated in one part: by text.json and by the model's positions."""
        positions = self.model.longest
        return (
            self.settings.max_length
            if positions is None
            else max(1, min(self.settings.max_length, positions - self._around))
        )

    @property
    def _around(self) -> int:
        """How many marks stand around a source."""
        return sum(map(len, source_marks(self.settings)))

    def _decode(self, sources: list[list[int]], search: Search, batch_tokens: int) -> list[list[Hypothesis]]:
        """The n best of each source; one that is empty is not decoded, and equal ones are decoded once."""
        found: dict[tuple[int, ...], list[Hypothesis]] = {(): [Hypothesis([], 0.0, 0.0)]}
        keys = [tuple(ids) for ids in sources]
        real = list(dict.fromkeys(key for key in keys if key))
        longest = max(map(len, real), default=0) + search.max_extra + len(target_start(self.settings))
        limits.product("beam × longest output", search.beam, longest, limits.HYPOTHESIS_TOKENS)
        results = self.backend([list(key) for key in real], search, batch_tokens)
        found.update((key, result.hypotheses) for key, result in zip(real, results, strict=True))
        return [found[key] for key in keys]

    def _decode_repetitions_again(
        self,
        sources: list[list[int]],
        hypotheses: list[list[Hypothesis]],
        searches: list[Search],
        owner: list[int],
        batch_tokens: int,
        warn: Warn | None,
    ) -> None:
        """Replaces the outputs that repeat themselves or do not end by those of a search without repeated n-grams."""
        faults = {i: why for i, ids in enumerate(sources) if ids and (why := self._fault(ids, hypotheses[i][0]))}
        again = list(faults)
        if not again:
            return
        strict = replace(searches[0], no_repeat_ngram=searches[0].no_repeat_ngram or NO_REPEAT)
        for i, better in zip(again, self._decode([sources[i] for i in again], strict, batch_tokens), strict=True):
            still = self._fault(sources[i], better[0])
            hypotheses[i], searches[i] = better, strict
            if warn:
                after = f", and {still} then too" if still else ""
                warn(owner[i], f"{faults[i]}; decoded again without repeats{after}")

    def _fault(self, source: list[int], hypothesis: Hypothesis) -> str:
        """The fault of an output, which repeats itself or does not end; "" without one.

        A source that repeats itself may have such a translation, and repeated digits or signs ("1,000,000,000",
        "-----") are no fault: only repeated words are.
        """
        phrase = find_repetition(hypothesis.ids)
        text = self.target_tokenizer.decode(phrase).strip() if phrase else ""
        if any(letter.isalpha() for letter in text) and not find_repetition(source, repeats=3):
            return f"gave an output that repeats {text[:40]!r}"
        return "gave an output that does not end" if hypothesis.at_limit else ""

    def _n_best(
        self,
        parts: list[list[Part]],
        hypotheses: list[list[Hypothesis]],
        searches: list[Search],
        n: int,
        batch_tokens: int,
        warn: Warn | None,
    ) -> list[list[list[Choice]]]:
        """For each text its n best translations, each a choice a part; ``warn`` is called where there are fewer."""

        def text_of(one: Hypothesis) -> str:
            return without_breaks(self.target_tokenizer.decode(one.ids))

        if n == 1:
            winners = iter(Choice(text_of(best[0]), best[0]) for best in hypotheses)
            return [[[next(winners) for _ in of_line]] for of_line in parts]
        flat = [part for of_line in parts for part in of_line]
        made = iter(
            PartChoices(part.ids, part.after, how, distinct(found, text_of))
            for part, how, found in zip(flat, searches, hypotheses, strict=True)
        )
        texts = [[next(made) for _ in of_line] for of_line in parts]
        longest = max((len(part.ids) for part in flat), default=0)
        most = widest(searches[0], longest, self.target_tokenizer.size) if searches else 1
        ways = n_best_texts(texts, n, lambda ids, search: self._decode(ids, search, batch_tokens), text_of, most)
        for line, (of_line, found) in enumerate(zip(parts, ways, strict=True)):
            if of_line and len(found) < n and warn:
                warn(line, f"has {len(found)} different translations, not {n}: a beam of {most} finds no more")
        return ways


def _decoding_of(loaded: Loaded) -> DecodingConfig:
    """The defaults, with the length penalty that the model remembers."""
    try:
        return DecodingConfig(length_penalty=loaded.text.settings.length_penalty)
    except RegardError as error:
        raise RegardError(f"{loaded.path / TEXT}: {error}") from None
