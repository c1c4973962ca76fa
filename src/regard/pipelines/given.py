"""What pipelines are given: texts, beginnings of translations, and translations that are scored."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from regard import limits
from regard.errors import RegardError
from regard.surrogates import without_halves
from regard.text.parts import Part
from regard.text.tokenizer import Tokenizer


def texts_given(texts: Sequence[str] | str, what: str = "text") -> list[str]:
    """The texts as a list, a single one as a list of one; a RegardError for anything that is no text."""
    if not isinstance(texts, str) and not isinstance(texts, Iterable):
        raise RegardError(f"{what}s {texts!r:.60}: expected a text, or a list of texts")
    found = [texts] if isinstance(texts, str) else list(texts)
    for number, text in enumerate(found, 1):
        if not isinstance(text, str):
            raise RegardError(f"{what} {number} is {text!r:.60}: expected a text")
    return found


def prompts_of(
    prefix: str | Sequence[str] | None, parts: Sequence[Sequence[Part]], tokenizer: Tokenizer
) -> list[tuple[int, ...]]:
    """The ids with which the translation of each text begins, () for any beginning; ``parts`` are those of the texts.

    A space at the end of a prefix is left to the model, which writes its own. A text that is translated in several
    parts is an error: nobody knows which of them the prefix translates.
    """
    if prefix is None:
        return [()] * len(parts)
    prefixes = [prefix] * len(parts) if isinstance(prefix, str) else list(prefix)
    if len(prefixes) != len(parts):
        raise RegardError(f"{len(prefixes)} prefixes and {len(parts)} texts: expected one for each")
    for number, (text, of_text) in enumerate(zip(prefixes, parts, strict=True), 1):
        count = sum(bool(part.ids) for part in of_text)
        if text.strip() and count != 1:
            raise RegardError(
                f"text {number}: a prefix can be continued where the text is translated in one part; this one has "
                f"{count}: give one sentence"
            )
    ids = tokenizer.encode_batch([without_halves(text).rstrip() for text in prefixes])
    return [tuple(each) for each in ids]


def check_lengths(side: str, rows: Sequence[Sequence[int]], marks: int, longest: int | None) -> None:
    """Refuse texts that are too long to be scored; unlike texts to translate, they cannot be split.

    ``marks`` stand around each; the model has ``longest`` positions, None for any number.
    """
    for number, ids in enumerate(rows, start=1):
        if longest is not None and len(ids) + marks > longest:
            raise RegardError(
                f"{side} {number}: {len(ids)} subwords are too long to be scored: the model has learnt "
                f"{longest} positions, marks included"
            )
        if len(ids) > limits.LENGTH:
            raise RegardError(
                f"{side} {number}: {len(ids):,} subwords are too long to be scored: expected at most {limits.LENGTH:,}"
            )
