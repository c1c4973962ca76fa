"""Stacked bars of shares; a part has the same colour in all bars."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from regard.draw.picture import check_ending, save


def write(bars: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """Draw ``bars``, name → (part → share of 1), into ``path``, whose ending is the format."""
    check_ending(path)
    import matplotlib
    from matplotlib.figure import Figure

    parts = list(dict.fromkeys(part for shares in bars.values() for part in shares))
    colours = matplotlib.colormaps["tab20"].resampled(max(len(parts), 2))
    drawing = Figure(figsize=(9.0, 1.6 + 0.6 * len(bars)), layout="constrained")
    axes = drawing.add_subplot()
    ends = dict.fromkeys(bars, 0.0)
    for number, part in enumerate(parts):
        widths = {name: 100 * shares.get(part, 0.0) for name, shares in bars.items()}
        axes.barh(list(bars), list(widths.values()), left=list(ends.values()), label=part, color=colours(number))
        ends = {name: end + widths[name] for name, end in ends.items()}
    axes.set_xlim(0, 100)
    axes.set_xlabel("% of the time")
    axes.invert_yaxis()
    drawing.legend(loc="outside upper center", ncols=5, frameon=False, fontsize=8)
    save(drawing, path)
