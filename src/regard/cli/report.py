"""Reports in parts: lines of text or keys of one JSON object, and tables that are aligned in terminal cells."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from regard.cli.common import print_json, show
from regard.terminal import printable

#: One part of a report: keys for --json, and lines of text.
Part = tuple[dict[str, Any], list[str]]

WIDEST = 32  # terminal cells of a table's cell; longer ones are cut with "…"


def print_parts(head: dict[str, Any], parts: Sequence[Callable[[], Part]], json: bool) -> None:
    """Compute and print one part after another, so that a later failure loses nothing; JSON begins with ``head``."""
    report = dict(head)
    try:
        for part in parts:
            keys, lines = part()
            report |= keys
            if not json:
                for line in lines:
                    show(line)
                sys.stdout.flush()
    finally:
        if json and len(report) > len(head):
            print_json(report)


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of as many cells as lines: the first column aligned left, the others right; wide glyphs take two cells.

    >>> table([["label", "F1"], ["积极", "1.00"]])
    ['label    F1', '积极   1.00']
    """
    from rich.cells import cell_len

    from regard.draw.glyphs import fit

    shown = [[printable(cell) for cell in row] for row in rows]
    shown = [[fit(cell, WIDEST) if cell_len(cell) > WIDEST else cell for cell in row] for row in shown]
    widths = [max(map(cell_len, column)) for column in zip(*shown, strict=True)]
    lines = []
    for first, *others in shown:
        right = [" " * (width - cell_len(cell)) + cell for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first + " " * (widths[0] - cell_len(first)), *right]).rstrip())
    return lines
