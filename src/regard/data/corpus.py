"""Sentence pairs from files, read as a stream: plain pairs, TSV, JSONL, each also compressed.

A fault is one error that names file and line.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

from regard.config import DataConfig
from regard.data.reading import COMPRESSED, open_lines, read_lines, without_nul
from regard.errors import RegardError
from regard.sections import Entry

__all__ = [
    "COMPRESSED",
    "Pair",
    "files_of",
    "named",
    "open_lines",
    "read_lines",
    "read_pairs",
    "without_nul",
    "zip_both",
]

_TABLES = (".tsv", ".jsonl", ".ndjson")


class Pair(NamedTuple):
    """One sentence and its translation; ``where`` is the source's place, as "file:line"."""

    source: str
    target: str
    where: str


def read_pairs(entry: Entry, data: DataConfig) -> Iterator[Pair]:
    """The pairs of one corpus as ``data.train`` or ``data.valid`` names it; an empty corpus is an error."""
    pair = None
    for pair in _read(files_of(entry, data), data):
        without_nul(pair.source + pair.target, pair.where)
        yield pair
    if pair is None:
        raise RegardError(f"{named(entry)}: the corpus is empty")


def _read(files: list[str], data: DataConfig) -> Iterator[Pair]:
    if len(files) == 2:
        return _read_two(files[0], files[1])
    if _bare(files[0]).endswith(".tsv"):
        return _read_tsv(files[0], data)
    return _read_jsonl(files[0], data)


def files_of(entry: Entry, data: DataConfig) -> list[str]:
    """The one or two files that an entry names; ``$REGARD_DATA`` is replaced (default: ../shared/data).

    A name stands for one file or for a prefix, whatever characters are in it; two files are a list. Two names with a
    comma between them are still read where no other file can be meant.
    """
    if not isinstance(entry, str):
        return [_placed(name) for name in entry]
    name = _placed(entry)
    if name == "-":
        return [name]
    if _bare(name).endswith(".parquet"):
        raise RegardError(f"{name}: Parquet is not read yet; convert it to JSONL or TSV")
    divided = [] if os.path.exists(name) else _divided(name)
    if _bare(name).endswith(_TABLES) and not divided:
        return [name]
    if os.path.isfile(name):
        raise RegardError(
            f"{name}: one file holds both languages only as .tsv or .jsonl; for two files write "
            f'["A.{data.source}", "A.{data.target}"] or their common prefix'
        )
    try:
        return [_of_prefix(name, language) for language in (data.source, data.target)]
    except RegardError as error:
        if len(divided) == 1:
            return divided[0]
        hint = '; two files are a list, ["A", "B"]' if "," in name else ""
        raise RegardError(f"{error}{hint}") from None


def named(entry: Entry) -> str:
    """An entry in a message."""
    return entry if isinstance(entry, str) else " and ".join(entry)


def _placed(name: str) -> str:
    return name.replace("$REGARD_DATA", os.environ.get("REGARD_DATA", "../shared/data"))


def _divided(name: str) -> list[list[str]]:
    """The ways in which ``a.zh,b.en`` (as configurations were written once) is two files that exist."""
    commas = [place for place, character in enumerate(name) if character == ","]
    divided = [[name[:place].strip(), name[place + 1 :].strip()] for place in commas]
    return [both for both in divided if all(map(os.path.isfile, both))]


def _of_prefix(prefix: str, language: str) -> str:
    for ending in ("", *COMPRESSED):
        if os.path.isfile(f"{prefix}.{language}{ending}"):
            return f"{prefix}.{language}{ending}"
    raise RegardError(f"{prefix}.{language}: no such file (nor {', '.join(COMPRESSED)}), named by data as '{prefix}'")


def _bare(path: str) -> str:
    """The path without the ending of its compression."""
    for ending in COMPRESSED:
        path = path.removesuffix(ending)
    return path


def _read_two(source: str, target: str) -> Iterator[Pair]:
    if source == target:
        raise RegardError(f"{source}: both sides are the same file")
    sources, targets = read_lines(source), read_lines(target)
    for count, (left, right) in enumerate(zip_both(sources, targets)):
        if left is None or right is None:
            longer, lines = (source, sources) if right is None else (target, targets)
            shorter = target if right is None else source
            total = count + 1 + sum(1 for _ in lines)
            raise RegardError(
                f"{shorter} has {count} lines and {longer} has {total}: line N of one must be the translation of "
                f"line N of the other (first without a partner: {longer}:{count + 1})"
            )
        yield Pair(left[0], without_nul(*right), left[1])


def zip_both(left: Iterator[Any], right: Iterator[Any]) -> Iterator[tuple[Any, Any]]:
    """Like zip, but when one ends first the other's next item comes beside None, and nothing after it is taken."""
    while True:
        first, second = next(left, None), next(right, None)
        if first is None and second is None:
            return
        yield first, second


def _read_tsv(path: str, data: DataConfig) -> Iterator[Pair]:
    """Columns between tabs, no quoting. A key is a column's number from 0, or its name in the first line."""
    keys = (data.source_key or data.source, data.target_key or data.target)
    chosen = bool(data.source_key or data.target_key)
    columns: tuple[int, int] | None = None
    for line, where in read_lines(path):
        cells = line.split("\t")
        if columns is None:
            named = [cell.strip() for cell in cells]
            if all(key in named for key in keys):
                columns = (named.index(keys[0]), named.index(keys[1]))
                continue
            if chosen and not all(key.isdecimal() for key in keys):
                raise RegardError(f"{where}: no columns '{keys[0]}' and '{keys[1]}' in the first line: {named[:9]}")
            columns = (int(keys[0]), int(keys[1])) if chosen else (0, 1)
        if len(cells) <= max(columns):
            raise RegardError(f"{where}: {len(cells)} columns, expected at least {max(columns) + 1} between tabs")
        yield Pair(cells[columns[0]], cells[columns[1]].removesuffix("\r"), where)


def _read_jsonl(path: str, data: DataConfig) -> Iterator[Pair]:
    """A JSON object a line; blank lines are passed over."""
    keys = (data.source_key or data.source, data.target_key or data.target)
    for line, where in read_lines(path):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise RegardError(f"{where}: not JSON: {str(error)[:80]}") from None
        if not isinstance(item, dict):
            raise RegardError(f"{where}: expected a JSON object, found {type(item).__name__}")
        for key in keys:
            if key not in item:
                raise RegardError(
                    f"{where}: no key '{key}' among {sorted(item)[:9]}; name the keys with data.source_key and "
                    "data.target_key"
                )
            if not isinstance(item[key], str):
                raise RegardError(f"{where}: '{key}' is not a text but {type(item[key]).__name__}")
            if _lone(item[key]):
                raise RegardError(f"{where}: '{key}' holds half a surrogate pair, which is no character")
        yield Pair(item[keys[0]], item[keys[1]], where)


def _lone(text: str) -> bool:
    """Whether a text holds half a surrogate pair, which JSON can write and UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
