"""Escapes control characters in text that is shown on a terminal.

A corpus, a model's file or a client can send escape sequences (which move the cursor, set the title, send input as if
typed) and marks that change the direction of writing. All text for a terminal passes through here.
"""

from __future__ import annotations

import re

# C0 and C1 controls, DEL, the separators of lines, the marks of direction, and half surrogate pairs.
_STEERING = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def printable(text: str, keep: str = "") -> str:
    """The text with every control character, except those in ``keep``, as an escape.

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
    """JSON text with the same characters as JSON's escapes, so that its value stays the same."""
    return _STEERING.sub(lambda match: f"\\u{ord(match.group()):04x}", text)
