"""The one exception that a user's mistake raises, and the nearest known name for a wrong one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from regard.terminal import printable


class RegardError(Exception):
    """One line for the person who reads it: which file, line or key, what was expected, what to do.

    The command line prints it as ``regard: error: …`` and exits with 2; nothing else is printed. A message often holds
    names from files and arguments: line feeds and what else steers a terminal stand in it as escapes.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class RegardWarning(UserWarning):
    """What a person should know though all goes on: ``warnings.warn`` in Python, a line of the command line."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a name that is not known, or "" where nothing comes close.

    >>> nearest("step", ["steps", "minutes"])
    " — did you mean 'steps'?"
    """
    # Looking takes the square of a name's length, and names come from files.
    close = difflib.get_close_matches(name[:100], list(known), n=1, cutoff=0.6)
    return f" — did you mean '{close[0]}'?" if close else ""
