"""Lines of a file or a stream as texts, a few at a time."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from regard.text.parts import Warn

BREAKS = re.compile("\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")  # whatever some program takes for the end of a line


def without_breaks(text: str) -> str:
    """The text on one line."""
    return BREAKS.sub(" ", text)


def texts_of(
    lines: Iterable[str | bytes], ahead: int, warn: Warn | None = None, size: int = 1 << 20
) -> Iterator[list[str]]:
    """Lists of texts, a text a line: of at most ``ahead`` lines, or of about ``size`` characters.

    Bytes that are not UTF-8 become U+FFFD, and ``warn`` is called with the number of their line, from 0.
    """
    first = 0
    for chunk in _chunks(lines, ahead, size):
        texts = []
        for number, line in enumerate(chunk, first):
            text = line if isinstance(line, str) else line.decode("utf-8", "replace")
            if warn and isinstance(line, bytes) and "\ufffd" in text and b"\xef\xbf\xbd" not in line:
                warn(number, "is not UTF-8; what could not be read is translated as U+FFFD")
            texts.append(without_breaks(text.removesuffix("\n").removesuffix("\r")))
        yield texts
        first += len(chunk)


def shifted(warn: Warn, first: int) -> Warn:
    """``warn`` for lines that are counted from ``first``."""
    return lambda number, what: warn(first + number, what)


def _chunks(lines: Iterable[str | bytes], ahead: int, size: int) -> Iterator[list[str | bytes]]:
    chunk: list[str | bytes] = []
    held = 0
    for line in lines:
        chunk.append(line)
        held += len(line)
        if len(chunk) >= ahead or held >= size:
            yield chunk
            chunk, held = [], 0
    if chunk:
        yield chunk
