"""Splits text that is too long for a model: at sentence ends, else at commas, else at spaces, else anywhere.

The concatenated parts are the text. A sentence that fits is a part of its own, since models learn from single
sentences; smaller units are joined as long as they fit. Time is O(n log n), also for a megabyte without a space.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator

Fits = Callable[[str], bool]

_CLOSING = "\"'”’»›」』）】》〉)\\]}"
_SENTENCE = re.compile(f"[.!?。！？…｡．؟।]+[{_CLOSING}]*\\s*|\\n\\s*")
_CLAUSE = re.compile(f"[,;:，、；：،؛—]+[{_CLOSING}]*\\s*")
_SPACE = re.compile(r"\s+")
# A full stop after these (or after a single letter) does not end a sentence.
_ENGLISH = ("mr", "mrs", "ms", "dr", "prof", "st", "sr", "jr", "vs", "etc", "e.g", "i.e", "vol", "pp", "fig", "approx")
_OTHERS = ("bzw", "usw", "ca", "nr", "hr", "fr", "z.b", "d.h", "u.a", "bspw", "ggf", "inkl", "evtl", "mme", "mlle")
_ABBREVIATIONS = frozenset((*_ENGLISH, *_OTHERS))
_JOINERS = "\u200c\u200d"
_BACK = 32  # characters that a hard cut may move back, to keep a character with its marks


def split_long(text: str, fits: Fits) -> list[str]:
    """Parts that fit, in order, whose concatenation is ``text``; a text that fits is its only part.

    ``fits`` should be monotonic: true for every part of a text for which it is true. A single character is a part even
    if it does not fit.

    >>> split_long("One, two. Three!", lambda part: len(part) < 8)
    ['One, ', 'two. ', 'Three!']
    """
    return [text] if fits(text) else list(_split(text, 0, fits))


def sentences(text: str) -> list[str]:
    """The sentences of a text, each with the white space after it; their concatenation is the text."""
    return list(_units(text, 0))


def _split(text: str, level: int, fits: Fits) -> Iterator[str]:
    """The parts of a text that does not fit, cut at this level; units that do not fit are cut at the next."""
    if level == len(_LEVELS):
        yield from _hard(text, fits)
        return
    run: list[str] = []
    for unit in _units(text, level):
        if fits(unit):
            run.append(unit)
            continue
        yield from _packed(run, level, fits)
        run = []
        yield from _split(unit, level + 1, fits)
    yield from _packed(run, level, fits)


def _units(text: str, level: int) -> Iterator[str]:
    pattern, ends = _LEVELS[level]
    first = 0
    for match in pattern.finditer(text):
        if match.end() < len(text) and ends(text, match):
            yield text[first : match.end()]
            first = match.end()
    if first < len(text):
        yield text[first:]


def _ends_sentence(text: str, match: re.Match[str]) -> bool:
    """Whether a sign ends a sentence: Chinese ones always, others before a space without a small letter after it."""
    sign = match.group()
    if sign[0] in "。！？｡।؟\n" or "\n" in sign:
        return True
    if not sign[-1].isspace() or text[match.end()].islower():
        return False
    if sign.rstrip() != ".":
        return True
    word = text[max(0, match.start() - 12) : match.start()].split()[-1:]
    before = word[0].lower().lstrip("(\"'“„«") if word else ""
    return not (len(before) == 1 and before.isalpha() and before != "i") and before not in _ABBREVIATIONS


def _ends_clause(text: str, match: re.Match[str]) -> bool:
    """Whether a sign stands between words, unlike that of 1,000, 1，000 or 12:30."""
    before, after = text[match.start() - 1 : match.start()], text[match.end()]
    return not (before.isdecimal() and after.isdecimal() and not match.group()[-1].isspace())


def _always(text: str, match: re.Match[str]) -> bool:
    return True


_LEVELS: tuple[tuple[re.Pattern[str], Callable[[str, re.Match[str]], bool]], ...] = (
    (_SENTENCE, _ends_sentence),
    (_CLAUSE, _ends_clause),
    (_SPACE, _always),
)


def _packed(units: list[str], level: int, fits: Fits) -> Iterator[str]:
    """Join units that each fit: sentences stay single, smaller ones are joined as long as they fit."""
    if level == 0:
        yield from units
        return
    first, count = 0, 1
    while first < len(units):
        count = _furthest(len(units) - first, lambda n, at=first: fits("".join(units[at : at + n])), count)  # type: ignore[misc]
        count = max(count, 1)
        yield "".join(units[first : first + count])
        first += count


def _hard(text: str, fits: Fits) -> Iterator[str]:
    """Cut between characters, if possible not between a character and its marks."""
    first, count = 0, 64
    while first < len(text):
        count = _furthest(len(text) - first, lambda n, at=first: fits(text[at : at + n]), count)  # type: ignore[misc]
        count = max(count, 1)
        end = first + count
        for back in range(min(_BACK, count)):
            if not _inside(text, end - back):
                end -= back
                break
        yield text[first:end]
        first = end


def _inside(text: str, at: int) -> bool:
    """Whether a cut at this position would separate a character from its marks."""
    if at >= len(text):
        return False
    after, before = text[at], text[at - 1]
    if unicodedata.category(after)[0] == "M" or after in _JOINERS or before == "\u200d":
        return True
    # Skin tones, and the second letter of a flag.
    return "\U0001f3fb" <= after <= "\U0001f3ff" or all(
        "\U0001f1e6" <= sign <= "\U0001f1ff" for sign in (before, after)
    )


def _furthest(most: int, good: Callable[[int], bool], guess: int) -> int:
    """The largest n of 0 … most for which ``good`` holds, if it holds up to some n and not above.

    The search starts at ``guess`` and doubles, so that it never tries numbers much larger than the result.
    """
    low, high = 0, most + 1
    step = max(1, min(guess, most))
    while low + step < high:
        if good(low + step):
            low += step
            step *= 2
        else:
            high = low + step
    while high - low > 1:
        middle = (low + high) // 2
        if good(middle):
            low = middle
        else:
            high = middle
    return low
