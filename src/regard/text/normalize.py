"""Normalisation: steps applied to a text before it is cut into subwords, in the given order."""

from __future__ import annotations

import functools
import importlib.resources
import unicodedata
from collections.abc import Callable, Sequence

from regard.errors import RegardError, nearest
from regard.surrogates import without_halves

KNOWN = ("nfc", "nfkc", "simplified", "lower")


def normalizer(names: Sequence[str]) -> Callable[[str], str]:
    """The steps ``names`` as one function; half surrogate pairs, which UTF-8 cannot hold, become U+FFFD.

    >>> normalizer(["nfkc", "lower"])("Ｒegard")
    'regard'
    """
    steps = [_step(name) for name in names]

    def normalize(text: str) -> str:
        for step in steps:
            text = step(text)
        return without_halves(text)

    return normalize


def _step(name: str) -> Callable[[str], str]:
    if name == "nfc":
        return functools.partial(unicodedata.normalize, "NFC")
    if name == "nfkc":
        return functools.partial(unicodedata.normalize, "NFKC")
    if name == "lower":
        return str.lower
    if name == "simplified":
        table = simplified_table()
        return lambda text: text if text.isascii() else text.translate(table)
    raise RegardError(f"normalize: unknown step '{name}'{nearest(name, KNOWN)}; expected some of {', '.join(KNOWN)}")


@functools.cache
def simplified_table() -> dict[int, str]:
    """Traditional → simplified character, the first choice in OpenCC's TSCharacters."""
    text = importlib.resources.files("regard.text").joinpath("simplified.txt").read_text("utf-8")
    pairs = (line.split() for line in text.splitlines() if line and not line.startswith("#"))
    return {ord(traditional): simplified for traditional, simplified in pairs}
