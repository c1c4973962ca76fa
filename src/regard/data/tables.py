"""Sentence pairs in tables: TSV and CSV, quoted or not, with or without a line of column names.

A .csv is read by CSV's rules. In a .tsv quotation marks are text, unless the file is quoted as CSV: every cell that
begins with a mark is a valid CSV cell, and either some such cell has doubled marks inside or all texts are in marks.
A single lone mark shows that marks are text.
"""

from __future__ import annotations

import csv
import functools
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from regard.config import DataConfig
from regard.data.headers import EXTRA, SOURCE, TARGET, TEXT, language, meaning
from regard.data.reading import bare, open_lines, read_lines
from regard.errors import RegardError

ENDINGS = (".tsv", ".csv")


class Columns(NamedTuple):
    """The columns of both sides, from 0, and whether the first line holds names."""

    source: int
    target: int
    named: bool


def read_table(path: str, data: DataConfig) -> Iterator[tuple[str, str, str]]:
    """Source, target and "file:line" of each row; blank lines are skipped."""
    rows = even_rows(path)
    first, where = next(rows, (None, ""))
    if first is None:
        return
    columns = columns_of(first, data, where)
    if not columns.named:
        yield first[columns.source], first[columns.target], where
    for cells, where in rows:
        yield cells[columns.source], cells[columns.target], where


def even_rows(path: str) -> Iterator[tuple[list[str], str]]:
    """The cells of each row that is not blank, with its "file:line".

    A row with more or fewer columns than the first is an error: a tab within a sentence would shift its parts.
    """
    width = 0
    for cells, where in _rows(path):
        width = width or len(cells)
        if len(cells) != width:
            raise RegardError(
                f"{where}: {_count(len(cells))}, and the first line has {width}: every line needs as many; is "
                "there a tab or comma within a sentence?"
            )
        yield cells, where


def remarks(path: str, data: DataConfig) -> list[str]:
    """Remarks on how a table is read, as lines: its column names, its quoting."""
    first, where = next(_rows(path), (None, ""))
    if first is None:
        return []
    source, target, named = columns_of(first, data, where)
    names = {"source": first[source], "target": first[target]} if named else {}
    return remarks_on(path, names)


def remarks_on(path: str, names: Mapping[str, str]) -> list[str]:
    """Remarks on a table whose first line gives the columns these ``names`` (none: it is a row), and on its quoting."""
    said = []
    if names:
        said.append(
            "the first line names the columns: " + ", ".join(f"{side} is '{name}'" for side, name in names.items())
        )
    if bare(path).endswith(".tsv") and _dialect(path)[1]:
        said.append("its cells are quoted as in CSV")
    return [f"{path}: {' and '.join(said)}"] if said else []


def languages_named(path: str) -> tuple[str, str]:
    """The two languages named in a table's first line, in the order of its columns; "" if there are none."""
    first, where = next(_rows(path), ([], ""))
    if not where:
        raise RegardError(f"{path}: the corpus is empty")
    return two_languages(first)


def two_languages(names: Iterable[str]) -> tuple[str, str]:
    """The codes of the two languages among names; "" if there are not exactly two."""
    meanings = [meaning(name, ("", "")) for name in names]
    found = [what for what in meanings if what not in ("", SOURCE, TARGET, TEXT, EXTRA)]
    return (found[0], found[1]) if len(found) == 2 and found[0] != found[1] else ("", "")


def columns_of(first: list[str], data: DataConfig, where: str) -> Columns:
    """The columns of both sides: by ``data.source_key`` and ``target_key``, by names, or because there are two."""
    names = [name.strip() for name in first]
    if len(names) < 2:
        raise RegardError(f"{where}: 1 column, expected one of {data.source} and one of {data.target} beside it")
    meanings = [meaning(name, (data.source, data.target)) for name in names]
    keys = (data.source_key, data.target_key)
    given = [
        by_key(key, names, where, f"data.{side}_key") if key else None
        for key, side in zip(keys, (SOURCE, TARGET), strict=True)
    ]
    chosen = [
        other if place is None else place for place, other in zip(given, _by_meaning(meanings, data), strict=True)
    ]
    named = any(key and not key.isdecimal() for key in keys) or any(
        _are_names(some, data) for some in ([meanings[place] for place in chosen if place is not None], meanings)
    )
    if not named:
        chosen = given
    if len(names) == 2:
        for side in (0, 1):
            if chosen[side] is None and given[1 - side] is not None:
                chosen[side] = 1 - (given[1 - side] or 0)
        if chosen == [None, None] and not named:
            chosen = [0, 1]
    source, target = chosen
    if source is None or target is None or source == target:
        shown = ", ".join(f"{number} {name[:30]!r}" for number, name in enumerate(names[:9]))
        raise RegardError(
            f"{where}: which of these columns are {data.source} and {data.target}? {shown}; say it by name or number, "
            "with --source-key and --target-key (data.source_key, data.target_key)"
        )
    return Columns(source, target, named)


def _by_meaning(meanings: list[str], data: DataConfig) -> list[int | None]:
    """The column of each side, supposing that the first line holds names; None if none or several fit."""
    sides = []
    for side, code in ((SOURCE, data.source), (TARGET, data.target)):
        own = [place for place, what in enumerate(meanings) if what == (language(code) or code.casefold())]
        sides.append(own or [place for place, what in enumerate(meanings) if what == side])
    texts = [place for place, what in enumerate(meanings) if what == TEXT]
    if len(meanings) == 2:  # "text" beside "translation"
        sides = [side or texts for side in sides]
    return [side[0] if len(side) == 1 else None for side in sides]


def _are_names(meanings: list[str], data: DataConfig) -> bool:
    """Whether cells are column names: all have a meaning, no two the same.

    Codes of other languages may be ordinary words (``it``, ``es``), so one cell must name a side or a run's language.
    """
    telling = {SOURCE, TARGET, TEXT, EXTRA, *(language(code) or code for code in (data.source, data.target))}
    return len(meanings) > 1 and all(meanings) and len(set(meanings)) == len(meanings) and bool(telling & {*meanings})


def by_key(key: str, names: list[str], where: str, option: str) -> int:
    """The column of a key, a number or a name."""
    if key.isdecimal() and len(key) < 10:
        if int(key) >= len(names):
            raise RegardError(f"{where}: {option} = {key}: there are {_count(len(names))}, counted from 0")
        return int(key)
    if names.count(key) != 1:
        times = "no column" if key not in names else f"{names.count(key)} columns"
        raise RegardError(
            f"{where}: {option} = '{key}': {times} of that name in the first line: {[n[:30] for n in names[:9]]}"
        )
    return names.index(key)


def _count(columns: int) -> str:
    return f"{columns} column{'s' * (columns != 1)}"


def _rows(path: str) -> Iterator[tuple[list[str], str]]:
    """The cells of each row that is not blank, with the "file:line" of its beginning."""
    delimiter, quoted = _dialect(path)
    if not quoted:
        yield from ((line.split(delimiter), where) for line, where in read_lines(path) if line)
        return
    reader = csv.reader((f"{line}\n" for line, _ in read_lines(path)), delimiter=delimiter, strict=True)
    begins = 1
    try:
        for cells in reader:
            if cells and not (begins == 1 and cells == ["sep=", ""]):  # Excel's line that names the delimiter
                yield cells, f"{path}:{begins}"
            begins = reader.line_num + 1
    except csv.Error as error:
        raise RegardError(
            f"{path}:{begins}: not CSV: {error}; a text with a quotation mark in it stands in quotation marks, and the "
            "mark is doubled"
        ) from None


def _dialect(path: str) -> tuple[str, bool]:
    """The delimiter of the columns, and whether cells are quoted."""
    if not bare(path).endswith(".csv"):
        status = os.stat(path) if os.path.exists(path) else None
        return "\t", _is_quoted(path, status and (status.st_mtime_ns, status.st_size))
    first = next((line for line, _ in read_lines(path)), "")
    return next((mark for mark in "\t,;" if mark in first), ","), True


@functools.lru_cache(maxsize=64)
def _is_quoted(path: str, stamp: object) -> bool:
    """Whether a .tsv is quoted as CSV. ``stamp`` changes with the file, so that the cache is not stale."""
    evidence, all_quoted, width = False, True, 0
    for number, line in enumerate(open_lines(path), 1):
        if b'"' not in line and not all_quoted:
            continue
        text = line.decode(errors="replace")
        raw = text.split("\t")
        # Column names and numbers may stand without marks.
        all_quoted &= number == 1 or all(re.fullmatch(r'".*|[-\d.,]*', cell) for cell in raw)
        width = width or len(raw)
        if '"' not in text:
            continue
        try:
            cells = next(csv.reader([text], delimiter="\t", strict=True))
        except csv.Error:
            return False
        width = len(cells) if number == 1 else width
        if width == 1 or (len(cells) != width and len(raw) == width):
            return False  # a mark at the beginning of one column and a mark at the end of another
        evidence |= len(cells) < len(raw)
        evidence |= any(cell[:1] == '"' and '"' in inside for cell, inside in zip(raw, cells, strict=False))
    return evidence or all_quoted
