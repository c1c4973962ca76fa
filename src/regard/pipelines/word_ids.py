"""A text as the ids of its words, with the characters of each word: what a tagger reads.

The words of a text are those of its tokenizer: letters, single signs, single Chinese characters and kana.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

from regard.text.tokenizer import Tokenizer, library_errors
from regard.text.words import BAR, SPACE

Range = tuple[int, int]  # first character of a text, and one after the last

# Beside marks (category M): vowels of Korean syllables, sounds of narrow kana, second halves of surrogate pairs.
_JOINED = re.compile("[\u1160-\u11ff\uff9e\uff9f\udc00-\udfff]")
# A Chinese character or kana, with the sounds of kana.
UNSPACED = re.compile(
    "([\u2e80-\u2fdf\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f"
    "\U00020000-\U0003134f][\u3099\u309a\uff9e\uff9f]*)"
)


class WordIds(NamedTuple):
    """The ids of a text, the characters of its words, and for each id the number of its word, -1 for none."""

    ids: list[int]
    words: list[Range]
    owner: list[int]


def ids_of_text(tokenizer: Tokenizer, text: str) -> WordIds:
    """The words of a text by its tokenizer; characters are those of ``text``, also where normalisation changes it."""
    normal, places = _normalized(tokenizer.normalize, text)
    found = _theirs(tokenizer, normal) if tokenizer.cut is None else _ours(tokenizer, tokenizer.cut(normal), normal)
    words = [(places[first][0], places[last - 1][1]) for first, last in found.words]
    return found._replace(words=words)


def ids_of_words(tokenizer: Tokenizer, words: Sequence[str]) -> WordIds:
    """The given words; characters are those of the words joined by spaces."""
    ranges, at = [], 0
    for word in words:
        ranges.append((at, at + len(word)))
        at += len(word) + 1
    if tokenizer.cut is not None:
        rows = tokenizer.encode_batch(words)
        return WordIds([i for row in rows for i in row], ranges, [n for n, row in enumerate(rows) for _ in row])
    normal = [tokenizer.normalize(word) for word in words]
    starts, at = [], 0
    for word in normal:
        starts.append(at)
        at += len(word) + 1
    with library_errors():
        encoded = tokenizer.inner.encode(" ".join(normal), add_special_tokens=False)
    # The last character of a token is never the space before a word, which some tokenizers count to the word.
    owner = [bisect_right(starts, max(start, end - 1)) - 1 for start, end in encoded.offsets]
    return WordIds(list(encoded.ids), ranges, owner)


def _normalized(normalize: Callable[[str], str], text: str) -> tuple[str, list[Range]]:
    """The normalised text, and for each of its characters those of the text that it comes from."""
    normal = normalize(text)
    if normal == text:
        return text, [(at, at + 1) for at in range(len(text))]
    whole, places = "", []
    for first, last in pairwise(_boundaries(text)):
        changed = normalize(text[first:last])
        whole += changed
        places += [(first, last)] * len(changed)
    return whole, places


def _boundaries(text: str) -> list[int]:
    """Where a character begins that normalisation does not join to the one before it, and the end of the text."""
    marks = ("M" if _JOINED.match(character) else unicodedata.category(character) for character in text)
    return [0, *(at for at, kind in enumerate(marks) if at and kind[0] != "M"), len(text)]


def _theirs(tokenizer: Tokenizer, text: str) -> WordIds:
    """By a tokenizer of the ``tokenizers`` library, which numbers the words that it cut."""
    with library_errors():
        encoded = tokenizer.inner.encode(text, add_special_tokens=False)
    words: list[Range] = []
    owner: list[int] = []
    known: int | None = None
    for number, (start, end) in zip(encoded.word_ids, encoded.offsets, strict=True):
        while start < end and text[start].isspace():
            start += 1
        if start == end:
            owner.append(-1)
        elif words and number == known:
            words[-1] = (words[-1][0], end)
            owner.append(len(words) - 1)
        else:
            words.append((start, end))
            owner.append(len(words) - 1)
            known = number
    return WordIds(list(encoded.ids), words, owner)


def _ours(tokenizer: Tokenizer, cut: Sequence[str], text: str) -> WordIds:
    """By a tokenizer of regard, from the words of its ``cut``; Chinese characters and kana stand alone."""
    at = len(text) - sum(len(word) or 1 for word in cut)  # -1 where a ▁ was added before the text
    ids: list[int] = []
    words: list[Range] = []
    owner: list[int] = []
    for word in (part for each in cut for part in (UNSPACED.split(each) if each else [BAR]) if part or not each):
        own = tokenizer.encode_word(word)
        first, at = at, at + (len(word) or 1)
        first += word.startswith(SPACE)
        visible = bool(text[first:at].strip())
        if visible:
            words.append((first, at))
        ids += own
        owner += [len(words) - 1 if visible else -1] * len(own)
    return WordIds(ids, words, owner)
