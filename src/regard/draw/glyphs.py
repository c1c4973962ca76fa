"""Labels of tokens: without control and bidirectional characters, measured in terminal cells."""

from __future__ import annotations

import unicodedata

from rich.cells import cell_len, chop_cells

WORD_START = "▁"
_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def label(token: str) -> str:
    """The label of a token: without the sign ▁ of a word's start; invisible characters by number.

    >>> label("▁love"), label("机器"), label("▁"), label("a\\x1b[2J")
    ('love', '机器', '▁', 'a<1B>[2J')
    """
    token = token.removeprefix(WORD_START) or token
    visible = "".join(f"<{ord(c):02X}>" if unicodedata.category(c) in _INVISIBLE else c for c in token)
    return "◌" + visible if visible and unicodedata.combining(visible[0]) else visible


def fit(text: str, cells: int) -> str:
    """`text` in exactly `cells` terminal cells: a Chinese character takes two; longer text is cut with "…".

    >>> fit("机器学习", 6), fit("I", 3)
    ('机器… ', 'I  ')
    """
    if cell_len(text) > cells:
        pieces = chop_cells(text, cells - 1)
        text = (pieces[0] if pieces and cell_len(pieces[0]) < cells else "") + "…"
    return text + " " * (cells - cell_len(text))
