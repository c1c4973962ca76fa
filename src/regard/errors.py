"""The exception for users' mistakes, and the nearest known name for a wrong one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from regard.terminal import printable


class RegardError(Exception):
    """A user's mistake, in one line: which file, line or key, what was expected, what to do.

    The command line prints only ``regard: error: …`` and exits with 2. A message often holds names from files and
    arguments, so its line feeds and control characters are escaped.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class RegardWarning(UserWarning):
    """A remark for the user without an error: ``warnings.warn`` in Python, a line on the command line."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for an unknown name, or "" if no known name is close.

    >>> nearest("step", ["steps", "minutes"])
    " — did you mean 'steps'?"
    """
    # The search takes the square of a name's length, and names come from files.
    close = difflib.get_close_matches(name[:100], list(known), n=1, cutoff=0.6)
    return f" — did you mean '{close[0]}'?" if close else ""
