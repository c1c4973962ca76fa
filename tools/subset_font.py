"""Make the Chinese font that the package carries: python tools/subset_font.py DroidSansFallbackFull.ttf

The font is Droid Sans Fallback (Apache-2.0, like this project), from Debian's package fonts-droid-fallback. Kept are
the characters of GB 2312 (both levels: simplified) and of Big5 level 1 (traditional), kana, Chinese punctuation, and
whatever else stands in the packaged corpus: about 9,200 of 43,000 glyphs, 1.3 MB. Latin comes from DejaVu Sans,
which matplotlib brings along. Needs fonttools (a dependency of matplotlib).
"""

from __future__ import annotations

import lzma
import sys
from collections.abc import Iterator
from pathlib import Path

from fontTools import subset
from fontTools.ttLib import TTFont

PACKAGE = Path(__file__).resolve().parent.parent / "src" / "regard"
OUT = PACKAGE / "look" / "font" / "DroidSansFallback-subset.ttf"


def two_bytes(encoding: str, leads: range, trails: list[int]) -> Iterator[str]:
    """Every character that a pair of bytes stands for in an old Chinese encoding."""
    for lead in leads:
        for trail in trails:
            try:
                yield bytes([lead, trail]).decode(encoding)
            except UnicodeDecodeError:
                continue


def characters() -> set[str]:
    kept = set(two_bytes("gb2312", range(0xA1, 0xF8), list(range(0xA1, 0xFF))))
    kept |= set(two_bytes("big5", range(0xA4, 0xC7), [*range(0x40, 0x7F), *range(0xA1, 0xFF)]))
    kept |= {chr(c) for c in (*range(0x3000, 0x3100), *range(0xFF00, 0xFFF0))}
    for path in sorted((PACKAGE / "packaged" / "tatoeba-zh-en").glob("*.zh.xz")):
        kept |= set(lzma.decompress(path.read_bytes()).decode("utf-8"))
    return kept


def main() -> None:
    font = TTFont(sys.argv[1], recalcTimestamp=False)  # the same bytes each time
    options = subset.Options()
    options.hinting = False  # pictures are drawn large and smoothed
    options.layout_features = []
    options.name_IDs = ["*"]  # the copyright and the licence stay inside
    options.drop_tables += ["GSUB", "GPOS", "GDEF", "vhea", "vmtx"]
    subsetter = subset.Subsetter(options)
    subsetter.populate(unicodes=[ord(c) for c in characters()])
    subsetter.subset(font)
    font.save(OUT)
    print(f"{OUT}: {len(font.getBestCmap()):,} characters, {OUT.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
