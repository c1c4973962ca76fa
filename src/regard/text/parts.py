"""Divides a text into parts that are translated one at a time: its lines, and pieces of lines that are too long.

Each part holds the separator after it, so that the joined translations are the text's translation.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from regard.errors import RegardError
from regard.surrogates import without_halves
from regard.text.sentences import split_long
from regard.text.tokenizer import Tokenizer

Warn = Callable[[int, str], None]  # number of a text, from 0, and a remark

UNSPACED = ("zh", "ja", "th", "lo", "km", "my", "yue", "wuu")  # languages without a space between sentences


class Part(NamedTuple):
    """A part of a text as ids, and the separator after its translation."""

    ids: list[int]
    after: str


class TooMuch(RegardError):
    """More sentences than the caller allows at once."""


def parts_of(
    texts: Sequence[str],
    tokenizer: Tokenizer,
    longest: int,
    targets: Sequence[str],
    warn: Warn | None = None,
    most: int | None = None,
) -> list[list[Part]]:
    """The parts of each text, at most ``longest`` subwords each; none for white space alone.

    Each line is at least one part; parts of one line are joined as sentences are in the text's language of ``targets``.
    ``warn`` is called for each text that is cut. Raises TooMuch for more than ``most`` parts; for much longer texts
    before they are cut, since cutting takes longer than tokenizing.
    """
    lines = [[without_halves(line) for line in text.split("\n")] for text in texts]
    flat = [line.strip() for of_text in lines for line in of_text]
    subwords = tokenizer.encode_batch(flat)
    _check_subwords(sum(map(len, subwords)), longest, most)
    encoded = iter(zip(flat, subwords, strict=True))
    parts: list[list[Part]] = []
    for number, (of_text, target) in enumerate(zip(lines, targets, strict=True)):
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
    """The parts of a line that is too long."""
    between = "" if re.split("[-_]", target.lower())[0] in UNSPACED else " "

    def fits(part: str) -> bool:  # not tokenized if short: each subword has a byte of the text or the ▁ before it
        short = len(tokenizer.normalize(part).encode()) < longest
        return short or len(tokenizer.encode(part.strip())) <= longest

    smaller = [part.strip() for part in split_long(text, fits) if part.strip()]
    return [Part(ids, between) for ids in tokenizer.encode_batch(smaller) if ids]


def _check_subwords(count: int, longest: int, most: int | None) -> None:
    """Raise early: more than 4 × most × longest subwords never fit into ``most`` parts."""
    if most is not None and count > 4 * most * longest:
        raise TooMuch(f"{count:,} subwords; at most {most:,} sentences of {longest} are translated at once")
