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
from regard.accel.prepared import Prepared
from regard.config import DecodingConfig
from regard.decoding.alignments import alignments as align
from regard.decoding.backends import build_backend
from regard.decoding.nbest import Choice, Decode, PartChoices, distinct, n_best_texts, widest
from regard.decoding.running_batch import Hypothesis
from regard.decoding.scoring import forced_scores
from regard.decoding.search import Search
from regard.decoding.waiting import Input, size
from regard.directory import TEXT, Loaded
from regard.errors import RegardError
from regard.models.registry import architecture_of
from regard.pipelines.given import check_lengths, prompts_of
from regard.pipelines.lines import shifted, texts_of, without_breaks
from regard.pipelines.repeats import decode_again
from regard.pipelines.results import TextScore, Translation, joined
from regard.surrogates import without_halves
from regard.text.marks import chosen_languages, source_marks, target_start
from regard.text.parts import Part, Warn, parts_of


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
                f"{loaded.path}: this model has no source, which a model that translates has: its architecture is "
                f"{architecture_of(loaded.options)}"
            )

    def translate(
        self,
        texts: Sequence[str] | str,
        *,
        language: str | Sequence[str] | None = None,
        prefix: str | Sequence[str] | None = None,
        beam: int | None = None,
        n_best: int | None = None,
        length_penalty: str | float | None = None,
        max_extra: int | None = None,
        max_tokens: int | None = None,
        stopping: str | None = None,
        no_repeat_ngram: int = 0,
        no_repeat: bool | None = None,
        batch_tokens: int | None = None,
        alignments: bool = False,
        warn: Warn | None = None,
        parts: list[list[Part]] | None = None,
    ) -> list[Translation]:
        """Translate each text. Options that are not given are those of ``self.decoding``.

        ``language``: into which, one of ``self.languages``, for all texts or for each; a model with several needs one.
        ``prefix``: how the translation begins, for all texts or for each, up to the end of a word ("" for any
        beginning); it is continued, and the whole is returned. ``max_tokens``: the most tokens of an output, end mark
        counted; without it ``max_extra`` more than the source has.

        The ``n_best`` differ as texts; where a beam finds fewer, wider ones are tried. A text that is longer than the
        model has learnt is translated in parts. An output that repeats itself or does not end is decoded again, unless
        ``no_repeat`` is False. ``warn`` is called with the number of the text and a remark on each of these.
        A text of white space gives "". ``parts`` is ``self.parts(texts)``, if the caller has it already.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        if alignments and isinstance(self.model, Prepared) and self.model.is_alone:
            raise RegardError(f"{self.path}: the model was loaded for decoding only: load it whole for alignments")
        given = self.decoding
        if batch_tokens is not None:
            limits.whole("batch tokens", batch_tokens, 1, limits.BATCH)
        search = self.search(beam, n_best, length_penalty, max_extra, stopping, no_repeat_ngram, max_tokens)
        batch_tokens = batch_tokens or given.batch_tokens
        languages = chosen_languages(self.settings, language, len(texts))
        parts = self.parts(texts, warn, language=languages) if parts is None else parts
        prompts = prompts_of(prefix, parts, self.target_tokenizer)
        owner = [line for line, of_line in enumerate(parts) for _ in of_line]
        flat = [part for of_line in parts for part in of_line]
        inputs = [
            Input(0, tuple(part.ids), prompts[line], languages[line]) for part, line in zip(flat, owner, strict=True)
        ]

        def decode(some: list[Input], by: Search) -> list[list[Hypothesis]]:
            return self._decode(some, by, batch_tokens)

        hypotheses = decode(inputs, search)
        searches = [search] * len(inputs)
        if given.no_repeat if no_repeat is None else no_repeat:
            say = None if warn is None else lambda number, what: warn(owner[number], what)
            searches = decode_again(inputs, hypotheses, search, decode, self.target_tokenizer, say)
        weights: list[NDArray[np.float32]] | None = None
        if alignments:
            winners = [n_best_of[0].ids for n_best_of in hypotheses]
            weights = align(
                self.model, [part.ids for part in flat], winners, self.settings,
                languages=[one.language for one in inputs], batch_tokens=batch_tokens,
            )  # fmt: skip
        chosen = self._n_best(parts, inputs, hypotheses, searches, search.n_best, decode, warn)
        found, at = [], 0
        for of_line, ways, prompt in zip(parts, chosen, prompts, strict=True):
            until = at + len(of_line)
            mine = None if weights is None else weights[at:until]
            found.append(
                joined(of_line, ways, search.length_penalty, mine, self.tokenizer, self.target_tokenizer, len(prompt))
            )
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
        self,
        sources: Sequence[str],
        targets: Sequence[str],
        *,
        language: str | Sequence[str] | None = None,
        batch_tokens: int | None = None,
    ) -> list[TextScore]:
        """The log-probabilities of given translations; ``language`` as in ``translate``."""
        if len(sources) != len(targets):
            raise RegardError(
                f"{len(sources)} sources and {len(targets)} targets: expected as many of one as of the other"
            )
        if batch_tokens is not None:
            limits.whole("batch tokens", batch_tokens, 1, limits.BATCH)
        source_ids = self.tokenizer.encode_batch([without_halves(text) for text in sources])
        target_ids = self.target_tokenizer.encode_batch([without_halves(text) for text in targets])
        languages = chosen_languages(self.settings, language, len(sources))
        check_lengths("source", source_ids, self._around, self.model.longest)
        check_lengths("target", target_ids, self._before, self.model.longest)
        scored = forced_scores(
            self.model,
            source_ids,
            target_ids,
            self.settings,
            languages=languages,
            batch_tokens=batch_tokens or self.decoding.batch_tokens,
        )
        return [
            TextScore(one.score, one.token_scores, self.target_tokenizer.tokens(ids))
            for one, ids in zip(scored, target_ids, strict=True)
        ]

    def search(
        self,
        beam: int | None = None,
        n_best: int | None = None,
        length_penalty: str | float | None = None,
        max_extra: int | None = None,
        stopping: str | None = None,
        no_repeat_ngram: int = 0,
        max_tokens: int | None = None,
    ) -> Search:
        """The search with these options; those that are not given are those of ``self.decoding``."""
        given = self.decoding
        search = Search(
            beam=given.beam if beam is None else beam,
            n_best=given.n_best if n_best is None else n_best,
            length_penalty=given.length_penalty if length_penalty is None else length_penalty,  # type: ignore[arg-type]
            max_extra=given.max_extra if max_extra is None else max_extra,
            max_tokens=max_tokens,
            stopping=given.stopping if stopping is None else stopping,  # type: ignore[arg-type]
            no_repeat_ngram=no_repeat_ngram,
        )
        limits.product("beam × vocabulary", search.beam, self.target_tokenizer.size, limits.SCORES)
        return search

    @property
    def languages(self) -> list[str]:
        """The languages into which the model translates."""
        return list(self.settings.languages) or [self.settings.target]

    def parts(
        self,
        texts: Sequence[str],
        warn: Warn | None = None,
        most: int | None = None,
        language: str | Sequence[str] | None = None,
    ) -> list[list[Part]]:
        """Each text as parts that are short enough for the model; none where there is nothing but white space.

        Lines of a text are parts of their own. Raises TooMuch where more than ``most`` parts are to be translated; a
        text that is much longer is refused before it is cut, since cutting takes longer than tokenizing it once.
        """
        languages = chosen_languages(self.settings, language, len(texts))
        targets = [one or self.settings.target for one in languages]
        return parts_of(texts, self.tokenizer, self._longest, targets, warn, most)

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
        """The most marks that stand around a source."""
        return max(sum(map(len, source_marks(self.settings, one))) for one in self.languages)

    @property
    def _before(self) -> int:
        """The most marks that stand before a target."""
        return max(len(target_start(self.settings, one)) for one in self.languages)

    def _decode(self, inputs: list[Input], search: Search, batch_tokens: int) -> list[list[Hypothesis]]:
        """The n best of each input, its prompt included; one that is empty is not decoded, equal ones once."""
        keys = [replace(one, number=0) for one in inputs]
        real = list(dict.fromkeys(key for key in keys if key.source))
        found = {key: [Hypothesis([], 0.0, 0.0)] for key in keys if not key.source}
        longest = max((len(key.prompt) + key.limit(search) for key in real), default=0) + self._before
        limits.product("beam × longest output", search.beam, longest, limits.HYPOTHESIS_TOKENS)
        results = self.backend([replace(key, number=i) for i, key in enumerate(real)], search, batch_tokens)
        for key, result in zip(real, results, strict=True):
            found[key] = [one._replace(ids=[*key.prompt, *one.ids]) for one in result.hypotheses]
        return [found[key] for key in keys]

    def _n_best(
        self,
        parts: list[list[Part]],
        inputs: list[Input],
        hypotheses: list[list[Hypothesis]],
        searches: list[Search],
        n: int,
        decode: Decode,
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
            PartChoices(one, part.after, how, distinct(found, text_of))
            for one, part, how, found in zip(inputs, flat, searches, hypotheses, strict=True)
        )
        texts = [[next(made) for _ in of_line] for of_line in parts]
        longest = max((size(one) for one in inputs), default=0)
        most = widest(searches[0], longest, self.target_tokenizer.size) if searches else 1
        ways = n_best_texts(texts, n, decode, text_of, most)
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
