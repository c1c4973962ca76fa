"""Half surrogate pairs, which JSON and Python's strings can hold, but no encoding, file or tokenizer."""

from __future__ import annotations

import re

_HALF = re.compile("[\ud800-\udfff]")


def has_half(text: str) -> bool:
    """Whether a text holds half a surrogate pair, which UTF-8 cannot encode."""
    return not text.isascii() and _HALF.search(text) is not None


def without_halves(text: str) -> str:
    """The text with U+FFFD for each half surrogate pair; two matching halves become their character.

    >>> without_halves("a\\ud83db"), without_halves("\\ud83d\\ude00") == chr(0x1F600)
    ('a�b', True)
    """
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if has_half(text) else text
