"""Text that may come from anywhere, made fit for a terminal: what would steer it is written as an escape.

A corpus, a model's file or a client can hold escape sequences (which move the cursor, set the title, send input
as if it were typed) and marks that turn the direction of writing. Whatever is shown to a person passes through here.
"""

from __future__ import annotations

import re

# C0 and C1 controls, DEL, the separators of lines, the marks of direction, and half surrogate pairs.
_STEERING = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def printable(text: str, keep: str = "") -> str:
    """The text with every character that steers a terminal as an escape, but for those of ``keep``.

    >>> printable("a\\x1b[2Jb\\n\\u202ec")
    'a\\\\x1b[2Jb\\\\n\\\\u202ec'
    """

    def escape(match: re.Match[str]) -> str:
        character = match.group()
        if character in keep:
            return character
        number = ord(character)
        return _SHORT.get(character) or (f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}")

    return _STEERING.sub(escape, text)


def printable_json(text: str) -> str:
    """JSON in which the same characters are JSON's own escapes, so that its value is the same."""
    return _STEERING.sub(lambda match: f"\\u{ord(match.group()):04x}", text)
