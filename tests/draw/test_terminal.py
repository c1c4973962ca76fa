"""Maps in the terminal: columns line up with wide glyphs, wide maps continue below, hostile tokens stay text."""

from __future__ import annotations

import io

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console

from regard.draw.glyphs import fit, label
from regard.draw.maps import AttentionMap, characters
from regard.draw.terminal import TerminalMap, colour, shade

SOURCE = ("▁我", "爱", "机器", "学习", "</s>")
TARGET = ("▁I", "▁love", "▁it", "</s>")


def drawn(attention: AttentionMap, width: int = 80, color_system: str | None = None) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, color_system=color_system, force_terminal=color_system is not None)  # type: ignore[arg-type]
    console.print(TerminalMap(attention))
    return out.getvalue()


def identity() -> AttentionMap:
    return AttentionMap(np.eye(4, 5, dtype=np.float32), SOURCE, TARGET, "layer 1")


def test_cells_stand_under_their_wide_tokens() -> None:
    lines = drawn(identity()).split("\n")
    assert lines[0].rstrip() == "layer 1"
    header, rows = lines[1], lines[2:6]
    for column, row in zip(("我", "爱", "机器", "学习"), rows, strict=True):
        before, _, _ = header.partition(column)
        start, end = cell_len(before), cell_len(before) + cell_len(column)
        cells = "".join(c * cell_len(c) for c in row)  # one character a cell
        assert set(cells[start:end]) == {"█"} and cells.count("█") == end - start


def test_a_map_wider_than_the_terminal_continues_below() -> None:
    text = drawn(identity(), width=20)
    assert all(cell_len(line) <= 20 for line in text.split("\n"))
    assert text.count("love") == 2 and all(label(token) in text for token in SOURCE)


def test_colours_are_used_where_there_are_any() -> None:
    assert "\x1b[48;2;" in drawn(identity(), color_system="truecolor")
    assert "\x1b" not in drawn(identity())
    assert colour(0) == "rgb(68,1,84)" and colour(1) == "rgb(253,231,37)" and colour(7) == colour(1)
    assert [shade(w) for w in (0, 0.2, 0.5, 0.7, 1, 3)] == ["·", "░", "▒", "▓", "█", "█"]


@pytest.mark.parametrize("token", ["\x1b[2J", "\u202eabc", "a\nb", "\u200b", "\ud800", "[bold]x[/bold]", "\u0301"])
def test_hostile_tokens_stay_text(token: str) -> None:
    attention = AttentionMap(np.ones((1, 1), dtype=np.float32), (token,), ("x",))
    text = drawn(attention)
    assert text.isprintable() or set(text) - {"\n"} == {c for c in text if c.isprintable()}
    assert len(text.split("\n")) == 3


def test_labels_and_fitting() -> None:
    assert [label(t) for t in ("▁love", "机器", "▁", "a\x1b")] == ["love", "机器", "▁", "a<1B>"]
    assert fit("机器学习", 6) == "机器… " and fit("I", 3) == "I  " and fit("机器", 4) == "机器"
    assert all(cell_len(fit("机a器b学c", n)) == n for n in range(1, 12))


def test_shapes_are_checked_and_empty_maps_draw_nothing() -> None:
    with pytest.raises(ValueError, match="weights are"):
        AttentionMap(np.zeros((2, 2), dtype=np.float32), ("a",), ("b", "c"))
    assert drawn(AttentionMap(np.zeros((0, 0), dtype=np.float32), (), ())) == ""


def test_bytes_of_a_character_are_drawn_as_one() -> None:
    source = ("▁I", "<0xE7>", "<0x88>", "<0xB1>", "<0xE7>", "<0x88>", "x", "<0xFF>")
    weights = np.arange(24, dtype=np.float32).reshape(3, 8)
    found = characters(AttentionMap(weights, source, ("<0xC3>", "<0xA9>", "b"), "t"))
    assert found.source == ("▁I", "爱", "<0xE7>", "<0x88>", "x", "<0xFF>") and found.target == ("é", "b")
    assert found.weights[:, 1].tolist() == [(1 + 2 + 3 + 9 + 10 + 11) / 2, 17 + 18 + 19]
    assert found.weights[1].tolist() == [16, 54, 20, 21, 22, 23] and found.title == "t"
    empty = AttentionMap(np.zeros((0, 0), dtype=np.float32), (), ())
    assert characters(empty).weights.shape == (0, 0)
