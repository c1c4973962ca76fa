"""Streams sentence pairs from files: plain pairs, tables (tables.py), JSONL, each also compressed.

A fault is one error that names file and line.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, NamedTuple

from regard.config import DataConfig
from regard.data import jsonl, tables
from regard.data.reading import COMPRESSED, bare, open_lines, read_lines, without_nul
from regard.errors import RegardError
from regard.schema import Entry

__all__ = [
    "COMPRESSED", "Pair", "files_of", "is_one_file", "languages_in", "named", "open_lines", "read_lines", "read_pairs",
    "remarks", "without_nul", "zip_both",
]  # fmt: skip

_ONE_FILE = (*tables.ENDINGS, *jsonl.ENDINGS)


class Pair(NamedTuple):
    """A sentence and its translation; ``where`` is the place of the source, "file:line"."""

    source: str
    target: str
    where: str

    @property
    def values(self) -> tuple[str, str]:
        return self.source, self.target


def read_pairs(entry: Entry, data: DataConfig) -> Iterator[Pair]:
    """The pairs of a corpus, an entry of ``data.train`` or ``data.valid``; an empty corpus is an error."""
    pair = None
    for pair in _read(files_of(entry, data), data):
        without_nul(pair.source + pair.target, pair.where)
        yield pair
    if pair is None:
        raise RegardError(f"{named(entry)}: the corpus is empty")


def _read(files: list[str], data: DataConfig) -> Iterator[Pair]:
    if len(files) == 2:
        return _read_two(files[0], files[1])
    if bare(files[0]).endswith(tables.ENDINGS):
        return (Pair(*row) for row in tables.read_table(files[0], data))
    return _read_jsonl(files[0], data)


def files_of(entry: Entry, data: DataConfig) -> list[str]:
    """The one or two files that an entry names; ``$REGARD_DATA`` is replaced (default: ../shared/data).

    A name is one file or a prefix, whatever its characters; two files are a list. Two names with a comma between them,
    an older form, are still read if no file has the whole name.
    """
    if not isinstance(entry, str):
        return [placed(name) for name in entry]
    name = placed(entry)
    if name == "-":
        return [name]
    if bare(name).endswith(".parquet"):
        raise RegardError(f"{name}: Parquet is not read yet; convert it to JSONL or TSV")
    divided = [] if os.path.exists(name) else _divided(name)
    if is_one_file(name) and not divided:
        return [name]
    if os.path.isfile(name):
        raise RegardError(
            f"{name}: one file holds both languages only as .tsv, .csv or .jsonl; for two files write "
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
    """An entry as messages name it."""
    return entry if isinstance(entry, str) else " and ".join(entry)


def is_one_file(path: str) -> bool:
    """Whether a file of this name holds both languages."""
    return bare(path).endswith(_ONE_FILE)


def remarks(entry: Entry, data: DataConfig) -> list[str]:
    """Remarks on how a corpus is read, as lines: a first line taken as names of columns, quoting."""
    files = files_of(entry, data)
    return tables.remarks(files[0], data) if len(files) == 1 and bare(files[0]).endswith(tables.ENDINGS) else []


def languages_in(path: str) -> tuple[str, str]:
    """The two languages named by a file's columns or by the keys of its first object, in their order."""
    if bare(path).endswith(tables.ENDINGS):
        return tables.languages_named(path)
    item, where = next(jsonl.objects(path), ({}, ""))
    if not where:
        raise RegardError(f"{path}: the corpus is empty")
    inner = item.get("translation")
    return tables.two_languages(inner if isinstance(inner, dict) else item)


def placed(name: str) -> str:
    """A name with ``$REGARD_DATA`` replaced (default: ../shared/data)."""
    return name.replace("$REGARD_DATA", os.environ.get("REGARD_DATA", "../shared/data"))


def _divided(name: str) -> list[list[str]]:
    """The ways in which ``a.zh,b.en``, the older form of a list, names two existing files."""
    commas = [place for place, character in enumerate(name) if character == ","]
    divided = [[name[:place].strip(), name[place + 1 :].strip()] for place in commas]
    return [both for both in divided if all(map(os.path.isfile, both))]


def _of_prefix(prefix: str, language: str) -> str:
    for ending in ("", *COMPRESSED):
        if os.path.isfile(f"{prefix}.{language}{ending}"):
            return f"{prefix}.{language}{ending}"
    raise RegardError(f"{prefix}.{language}: no such file (nor {', '.join(COMPRESSED)}), named by data as '{prefix}'")


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
    """Like zip, but if one iterator ends first, the other's next item is paired with None."""
    while True:
        first, second = next(left, None), next(right, None)
        if first is None and second is None:
            return
        yield first, second


def _read_jsonl(path: str, data: DataConfig) -> Iterator[Pair]:
    """The pairs of a JSONL file, an object a line; blank lines are skipped."""
    source, target = _keys(data.source_key, data.source), _keys(data.target_key, data.target)
    for item, where in jsonl.objects(path):
        yield Pair(_text(item, source, where), _text(item, target, where), where)


def _keys(given: str, language: str) -> tuple[str, ...]:
    """The keys to look for a text under; ``translation.zh`` is that of Hugging Face's data sets."""
    return (given,) if given else (language, f"translation.{language}")


def _text(item: dict[str, Any], keys: tuple[str, ...], where: str) -> str:
    """The text under the first existing key."""
    for key in keys:
        value = jsonl.value_of(item, key)
        if value is not jsonl.MISSING:
            return jsonl.text_of(value, key, where)
    raise RegardError(
        f"{where}: no key '{keys[0]}' among {jsonl.keys_of(item)}; name the keys with --source-key and --target-key "
        "(data.source_key, data.target_key)"
    )
