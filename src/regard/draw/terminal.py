"""Draws an attention map in the terminal: a row for each target token, a column for each source token.

      我   爱   机器   学习   。
I     ██        ░░
love  ░░   ██
"""

from __future__ import annotations

from collections.abc import Iterator

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.style import Style
from rich.text import Text

from regard.draw.glyphs import fit, label
from regard.draw.maps import AttentionMap

SHADES = "·░▒▓█"  # without colour: five steps
LONGEST = 14  # terminal cells of a label; longer ones are cut with "…"
# With colour: five points of matplotlib's viridis, which the colour-blind can read.
RAMP = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))


def colour(weight: float) -> str:
    """The ramp's colour for a weight in [0, 1], as Rich writes it: colour(0) == 'rgb(68,1,84)'."""
    place = min(max(weight, 0.0), 1.0) * (len(RAMP) - 1)
    low = min(int(place), len(RAMP) - 2)
    mixed = (round(a + (b - a) * (place - low)) for a, b in zip(RAMP[low], RAMP[low + 1], strict=True))
    return "rgb({},{},{})".format(*mixed)


def shade(weight: float) -> str:
    """The nearest of five shades; a weight under 1/8 is a dot."""
    return SHADES[int(min(max(weight, 0.0), 1.0) * (len(SHADES) - 1) + 0.5)]


class TerminalMap:
    """A Rich renderable: `console.print(TerminalMap(map))`. Maps wider than the terminal continue in panels below."""

    def __init__(self, attention: AttentionMap) -> None:
        self.attention = attention

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        coloured = console.color_system in ("256", "truecolor")
        rows = [label(token) for token in self.attention.target]
        columns = [label(token) for token in self.attention.source]
        margin = min(max((cell_len(row) for row in rows), default=0), LONGEST)
        widths = [min(max(cell_len(column), 2), LONGEST) for column in columns]
        if self.attention.title:
            yield Text(self.attention.title, style="bold", no_wrap=True, overflow="ellipsis")
        for first, last in _panels(widths, options.max_width - margin - 2):
            yield self._header(columns, widths, margin, first, last)
            for t, row in enumerate(rows):
                yield self._row(t, row, widths, margin, first, last, coloured)

    def _header(self, columns: list[str], widths: list[int], margin: int, first: int, last: int) -> Text:
        cells = " ".join(fit(columns[s], widths[s]) for s in range(first, last))
        return Text(" " * (margin + 2) + cells, style="bold", no_wrap=True, overflow="crop")

    def _row(self, t: int, row: str, widths: list[int], margin: int, first: int, last: int, coloured: bool) -> Text:
        gap = margin - min(cell_len(row), margin)  # labels are right-aligned
        line = Text(" " * gap + fit(row, margin - gap) + "  ", no_wrap=True, overflow="crop")
        for s in range(first, last):
            weight = float(self.attention.weights[t, s])
            if coloured:
                line.append(" " * widths[s], Style.parse(f"on {colour(weight)}"))
            else:
                line.append(fit("·", widths[s]) if shade(weight) == "·" else shade(weight) * widths[s])
            line.append(" ")
        return line


def _panels(widths: list[int], room: int) -> Iterator[tuple[int, int]]:
    """Divide the columns by the terminal's width: ranges [first, last), at least one column each.

    >>> list(_panels([2, 2, 4], 6))
    [(0, 2), (2, 3)]
    """
    first, used = 0, 0
    for s, width in enumerate(widths):
        if s > first and used + width > room:
            yield first, s
            first, used = s, 0
        used += width + 1
    if widths:
        yield first, len(widths)
