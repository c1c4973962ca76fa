"""Draws an attention map as a picture (PNG, SVG or PDF by the file's ending), with the package's Chinese font.

matplotlib takes Latin glyphs from its DejaVu Sans and Chinese ones from the package's font; a glyph that neither has is
drawn as an empty box. No global state changes: no pyplot, no rcParams outside the drawing.
"""

from __future__ import annotations

import functools
import importlib.resources
import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from rich.cells import cell_len

from regard.draw.glyphs import label
from regard.draw.maps import AttentionMap
from regard.errors import RegardError
from regard.outputs import write_output

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ENDINGS = (".png", ".svg", ".pdf")
CELL = 0.36  # inches of a cell
LARGEST = 60.0  # inches of a side; maps of very long sentences get smaller cells
FONT_SIZE = 11.0


@functools.cache
def families() -> list[str]:
    """The font families in order of search; registers the package's font once."""
    from matplotlib import font_manager

    with importlib.resources.as_file(importlib.resources.files("regard.draw") / "font") as folder:
        path = folder / "DroidSansFallback-subset.ttf"
        font_manager.fontManager.addfont(str(path))
        return ["DejaVu Sans", font_manager.FontProperties(fname=str(path)).get_name()]


@functools.cache
def _glyphs() -> frozenset[int]:
    from matplotlib import font_manager

    covered: set[int] = set()
    for family in families():
        covered |= set(font_manager.get_font(font_manager.findfont(family)).get_charmap())
    return frozenset(covered)


def printable(token: str) -> str:
    """A token's label with drawable glyphs only; "$" is escaped, since matplotlib would start a formula.

    >>> printable("▁机器"), printable("ሀ")
    ('机器', '□')
    """
    return "".join(c if ord(c) in _glyphs() else "□" for c in label(token)).replace("$", r"\$")


def figure(attention: AttentionMap) -> Figure:
    """The drawing: rows are target tokens, columns source tokens; the darker a cell, the more attention."""
    import matplotlib
    from matplotlib.figure import Figure

    columns = [printable(token) for token in attention.source]
    rows = [printable(token) for token in attention.target]
    cell = min(CELL, LARGEST / max(len(rows), len(columns), 1))
    size = min(FONT_SIZE, FONT_SIZE * cell / CELL)
    with matplotlib.rc_context({"font.family": families(), "font.size": size, "axes.unicode_minus": False}):
        drawing = Figure(figsize=(cell * len(columns) + 2.6, cell * len(rows) + 1.8), layout="constrained")
        axes = drawing.add_subplot()
        image = axes.imshow(attention.weights, cmap="Blues", vmin=0.0, vmax=1.0, aspect="equal")
        wide = max((cell_len(column) for column in columns), default=0) > 4
        axes.set_xticks(
            range(len(columns)),
            columns,
            rotation=60 if wide else 0,
            ha="left" if wide else "center",
            rotation_mode="anchor",
        )
        axes.set_yticks(range(len(rows)), rows)
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.set_xticks([s - 0.5 for s in range(1, len(columns))], minor=True)
        axes.set_yticks([t - 0.5 for t in range(1, len(rows))], minor=True)
        axes.grid(which="minor", color="white", linewidth=1)
        axes.tick_params(which="minor", length=0)
        if attention.title:
            axes.set_xlabel(printable(attention.title))
        drawing.colorbar(image, ax=axes, shrink=0.6, label="attention weight")
    return drawing


def check_ending(path: Path) -> None:
    """Raise for a name without a known ending, before anything is computed."""
    if path.suffix.lower() not in ENDINGS:
        raise RegardError(f"{path}: a picture's name ends in {', '.join(ENDINGS)}, not {path.suffix or 'nothing'!r}")


def write(attention: AttentionMap, path: Path) -> None:
    """Draw the map into `path`, whose ending is the format."""
    check_ending(path)
    import matplotlib

    with matplotlib.rc_context({"font.family": families(), "svg.fonttype": "path"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        save(figure(attention), path)


def save(drawing: Figure, path: Path) -> None:
    """Write a drawing in one step; a failure is an error that names the file."""
    drawn = io.BytesIO()
    drawing.savefig(drawn, dpi=160, format=path.suffix[1:].lower())
    write_output(path, drawn.getvalue())
