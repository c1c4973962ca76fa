"""Pictures: Chinese is drawn with the package's own font, whatever is installed; strange glyphs do not fail."""

from __future__ import annotations

import importlib.resources
import lzma
import warnings
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from regard.draw.maps import AttentionMap
from regard.draw.picture import families, figure, printable, write
from regard.errors import RegardError


def attention(*source: str) -> AttentionMap:
    return AttentionMap(np.full((2, len(source)), 1 / len(source), dtype=np.float32), source, ("▁I", "</s>"), "我 $x$")


@pytest.mark.parametrize("ending, start", [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_formats(tmp_path: Path, ending: str, start: bytes) -> None:
    path = tmp_path / f"map{ending}"
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a glyph that is missing would warn
        write(attention("▁我", "爱", "機器", "$5_^", "\ue000", "😀", "\x1b"), path)
    assert path.read_bytes().startswith(start)


def test_chinese_is_drawn_and_not_boxed() -> None:
    """机 and 习 give different ink from each other and from a box."""
    inks = []
    for character in ("机", "習", "□"):
        canvas = FigureCanvasAgg(figure(attention(character)))
        canvas.draw()
        inks.append(np.asarray(canvas.buffer_rgba()).copy())
    assert not np.array_equal(inks[0], inks[1]) and not np.array_equal(inks[0], inks[2])


def test_the_font_has_every_common_character_of_the_corpus() -> None:
    text = ""
    for path in (importlib.resources.files("regard") / "packaged" / "tatoeba-zh-en").iterdir():
        if path.name.endswith(".zh.xz"):
            text += lzma.decompress(path.read_bytes()).decode("utf-8")
    lacking = {c for c in text if c.isprintable() and printable(c).startswith("□")}
    share = sum(text.count(c) for c in lacking) / len(text)
    assert share < 1e-4, lacking
    assert all(printable(c) == c for c in "我爱机器学习愛機器學習。，？")
    font = importlib.resources.files("regard.draw") / "font"
    assert "Apache License" in (font / "LICENSE.txt").read_text("utf-8")
    assert families()[0] == "DejaVu Sans"


def test_long_maps_shrink_and_wrong_endings_are_said(tmp_path: Path) -> None:
    size = figure(attention(*["机器"] * 600)).get_size_inches()
    assert max(size) < 64
    with pytest.raises(RegardError, match=r"\.png, \.svg, \.pdf"):
        write(attention("我"), tmp_path / "map.gif")
    (tmp_path / "file").touch()
    with pytest.raises(RegardError, match="cannot be written"):
        write(attention("我"), tmp_path / "file" / "map.png")
