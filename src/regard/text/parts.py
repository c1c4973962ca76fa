"""A text as parts that are translated in one go each: its lines, cut further where a model has learnt less.

Each part knows what stands after it in the translation, so that the parts joined are the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from regard.errors import RegardError
from regard.surrogates import without_halves
from regard.text.sentences import split_long
from regard.text.tokenizer import Tokenizer

Warn = Callable[[int, str], None]  # line number, counted from 0, and what is to be said of it

UNSPACED = ("zh", "ja", "th", "lo", "km", "my", "yue", "wuu")  # sentences of these follow one another without a space


class Part(NamedTuple):
    """A part of a text that is translated in one go, as ids, and what stands after it in the translation."""

    ids: list[int]
    after: str


class TooMuch(RegardError):
    """More sentences than the caller wants to be translated at once."""


def parts_of(
    texts: Sequence[str],
    tokenizer: Tokenizer,
    longest: int,
    target: str,
    warn: Warn | None = None,
    most: int | None = None,
) -> list[list[Part]]:
    """Each text as parts of at most ``longest`` subwords; none where there is nothing but white space.

    Lines of a text are parts of their own; parts of one line are joined as the language ``target`` writes sentences.
    ``warn`` hears of texts that are cut. Raises TooMuch where more than ``most`` parts are to be translated: of a text
    that is much longer, before it is cut, which takes longer than to tokenize it once.
    """
    lines = [[without_halves(line) for line in text.split("\n")] for text in texts]
    flat = [line.strip() for of_text in lines for line in of_text]
    subwords = tokenizer.encode_batch(flat)
    _check_subwords(sum(map(len, subwords)), longest, most)
    encoded = iter(zip(flat, subwords, strict=True))
    parts: list[list[Part]] = []
    for number, of_text in enumerate(lines):
        found: list[Part] = []
        cut = 0
        for place, _ in enumerate(of_text):
            core, ids = next(encoded)
            end = "\n" if place + 1 < len(of_text) else ""
            if not core or not ids:
                found.append(Part([], end))
            elif len(ids) <= longest:
                found.append(Part(ids, end))
            else:
                smaller = _cut(core, tokenizer, longest, target)
                cut += len(smaller)
                found += [*smaller[:-1], smaller[-1]._replace(after=end)]
        if cut and warn:
            warn(number, f"is longer than the {longest} subwords that the model has learnt; translated in {cut} parts")
        parts.append([] if not any(part.ids for part in found) else found)
    count = sum(bool(part.ids) for of_text in parts for part in of_text)
    if most is not None and count > most:
        raise TooMuch(f"{count:,} sentences; at most {most:,} are translated at once")
    return parts


def _cut(text: str, tokenizer: Tokenizer, longest: int, target: str) -> list[Part]:
    """A line that is too long, in parts that are not."""
    between = "" if re.split("[-_]", target.lower())[0] in UNSPACED else " "

    def fits(part: str) -> bool:  # a subword is at least a byte of the text, or the ▁ before it: words are not cut
        short = len(tokenizer.normalize(part).encode()) < longest
        return short or len(tokenizer.encode(part.strip())) <= longest

    smaller = [part.strip() for part in split_long(text, fits) if part.strip()]
    return [Part(ids, between) for ids in tokenizer.encode_batch(smaller) if ids]


def _check_subwords(count: int, longest: int, most: int | None) -> None:
    """Refuses early: no cutting turns more than 4 × most × longest subwords into ``most`` parts."""
    if most is not None and count > 4 * most * longest:
        raise TooMuch(f"{count:,} subwords; at most {most:,} sentences of {longest} are translated at once")
