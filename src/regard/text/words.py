"""Cuts a text into words, the units that subwords never cross, without loss.

A space becomes ``▁`` and belongs to the word after it, so that a word is the same at every position; a text that begins
with a letter of a spaced script gets one more ``▁``, which decoding removes. Punctuation, symbols and digits are
single; runs of Chinese characters and kana are one word, so that training finds their pieces and no segmenter is
needed.

The two regular expressions stand in ``tokenizer.json``, where ``tokenizers`` reads them. Python applies the same ones,
and is faster, since the ids of repeated words are cached.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Callable

SPACE = "▁"
NEVER = r"(?!)"  # matches nowhere
BAR = ""  # in a list of words: the sign ▁ itself, which must not be decoded as a space

# Chinese characters and kana, written without spaces.
_UNSPACED = "\u2e80-\u2fdf\u3005-\u3007\u3031-\u3035\u303b\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
_UNSPACED += "\uf900-\ufaff\uff66-\uff9f\U0001b000-\U0001b16f\U00020000-\U0003134f"
# Symbols, numbers and emoji beyond U+FFFF, by block: a class of single characters would be slow.
_BEYOND = "\U00010100-\U000101fc\U0001d000-\U0001d37f\U0001d7ce-\U0001d7ff\U0001f000-\U0001fbff"


@functools.cache
def word_patterns() -> tuple[str, str]:
    """Two regular expressions for Python and ``tokenizers``: a word, and a text that begins with one.

    A word is a run of letters with the space before it, a run of Chinese characters, or one other character.
    """
    alone = _standing_alone() + _BEYOND
    word = f"{SPACE}?[^{SPACE}{_UNSPACED}{alone}]+|[{_UNSPACED}]+|[{SPACE}{alone}]"
    return word, f"\\A(?=[^{_UNSPACED}{alone}])"


def _standing_alone() -> str:
    """Punctuation, symbols, numbers, separators and controls, without ▁, as the inside of a character class."""
    unspaced = re.compile(f"[{_UNSPACED}]")
    spans: list[list[int]] = []
    for code in range(0x10000):
        kind = unicodedata.category(chr(code))
        if code == ord(SPACE) or not (kind[0] in "PSNZ" or kind == "Cc") or unspaced.match(chr(code)):
            continue
        if spans and spans[-1][1] == code - 1:
            spans[-1][1] = code
        else:
            spans.append([code, code])
    return "".join(_sign(first) + (f"-{_sign(last)}" if last > first else "") for first, last in spans)


def _sign(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x80 else chr(code)


_LONGEST = 1 << 16  # characters of a pattern; regard's own have about 6,000
_SIGNS = r"(?:[^\x00-\x7f]|-|\\x[0-9a-f]{2})+"  # the inside of a character class


def ours(word: str, start: str) -> bool:
    """Whether two patterns of a file have the shape of ``word_patterns``, with any characters.

    A model may come from anyone, and some regular expressions never end; those of this shape always do. The characters
    depend on the edition of Unicode with which the vocabulary was learnt.
    """
    return our_word(word) and our_start(start)


def our_word(pattern: str) -> bool:
    """Whether a pattern has the shape of the first of ``word_patterns``."""
    shape = rf"{SPACE}\?\[\^{SPACE}{_SIGNS}\]\+\|\[{_SIGNS}\]\+\|\[{SPACE}{_SIGNS}\]"
    return bool(re.fullmatch(shape, pattern)) and _compiles(pattern)


def our_start(pattern: str) -> bool:
    """Whether a pattern has the shape of the second of ``word_patterns``."""
    return bool(re.fullmatch(rf"\\A\(\?=\[\^{_SIGNS}\]\)", pattern)) and _compiles(pattern)


def _compiles(pattern: str) -> bool:
    if "--" in pattern or len(pattern) > _LONGEST:  # Python warns of "--", which regard never writes
        return False
    try:
        re.compile(pattern)
    except re.error:  # a range that runs backwards
        return False
    return True


def cutter(word: str, start: str = "") -> Callable[[str], list[str]]:
    """The function from a text to its words, each with its ▁; ``BAR`` for the sign ▁ itself.

    Without ``start`` no ▁ is put before the first word: for text that goes on, and for characters.
    """
    find, begins = re.compile(word).findall, re.compile(start or NEVER).match

    def cut(text: str) -> list[str]:
        if SPACE in text:
            first, *rest = text.split(SPACE)
            words = cut(first)
            for part in rest:
                words.append(BAR)
                words += find(part.replace(" ", SPACE))
            return words
        text = text.replace(" ", SPACE)
        words = find(SPACE + text if begins(text) else text)
        return words

    return cut
