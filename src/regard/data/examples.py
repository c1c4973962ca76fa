"""Reads a corpus as examples of its columns: pairs for a translation, else rows of a table or objects of JSON lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from regard.config import DataConfig
from regard.data import corpus, jsonl, tables
from regard.data.columns import Column, Example, Found, find, is_pairs, is_stream, not_found, suggested
from regard.data.reading import bare, without_nul
from regard.errors import RegardError
from regard.schema import Entry


def read_examples(entry: Entry, data: DataConfig, columns: Sequence[Column]) -> Iterator[Example]:
    """The examples of a corpus; an empty corpus is an error."""
    if is_pairs(columns):
        for pair in corpus.read_pairs(entry, data):
            yield Example((pair.source, pair.target), pair.where)
        return
    path, example = file_of(entry), None
    read = _read_table if bare(path).endswith(tables.ENDINGS) else _read_jsonl
    for example in read(path, columns):
        yield example
    if example is None:
        raise RegardError(f"{path}: the corpus is empty")


def files_of(entry: Entry, data: DataConfig, columns: Sequence[Column]) -> list[str]:
    """The files that an entry names."""
    return corpus.files_of(entry, data) if is_pairs(columns) else [file_of(entry, text=is_stream(columns))]


def file_of(entry: Entry, *, text: bool = False) -> str:
    """The one file of a corpus that holds no pairs: a table or JSON lines, or with ``text`` also plain text."""
    if not isinstance(entry, str):
        raise RegardError(f"{corpus.named(entry)}: expected one file; two are the sides of a translation")
    path = corpus.placed(entry)
    if bare(path).endswith(".parquet"):
        raise RegardError(f"{path}: Parquet is not read yet; convert it to JSONL or TSV")
    if not text and not corpus.is_one_file(path):
        raise RegardError(f"{path}: expected texts with labels in a .tsv, .csv or .jsonl file")
    return path


def remarks(entry: Entry, data: DataConfig, columns: Sequence[Column]) -> list[str]:
    """Remarks on how a corpus is read, as lines."""
    if is_pairs(columns):
        return corpus.remarks(entry, data)
    path = file_of(entry, text=is_stream(columns))
    if not bare(path).endswith(tables.ENDINGS):
        return []
    first, where = next(tables.even_rows(path), (None, ""))
    if first is None:
        return []
    found = _columns_in(first, columns, where)
    names = {column.name: first[place] for column, place in zip(columns, found.places, strict=True)}
    return tables.remarks_on(path, names if found.named else {})


def kind_of(path: str) -> str:
    """The task that a file's names of columns or keys suggest: classification, language_model, or "" for none."""
    if bare(path).endswith(tables.ENDINGS):
        names, _ = next(tables.even_rows(path), ([], ""))
    else:
        names = list(next(jsonl.objects(path), ({}, ""))[0])
    return suggested(names)


def _read_table(path: str, columns: Sequence[Column]) -> Iterator[Example]:
    rows = tables.even_rows(path)
    first, where = next(rows, (None, ""))
    if first is None:
        return
    found = _columns_in(first, columns, where)
    if not found.named:
        yield _example([first[place] for place in found.places], columns, where)
    for cells, where in rows:
        yield _example([cells[place] for place in found.places], columns, where)


def _columns_in(first: list[str], columns: Sequence[Column], where: str) -> Found:
    names = [name.strip() for name in first]
    found = find(
        names, columns, lambda column: tables.by_key(column.key, names, where, f"data.{column.name}"), named=False
    )
    if found is None:
        raise not_found(names, columns, where, "columns")
    return found


def _read_jsonl(path: str, columns: Sequence[Column]) -> Iterator[Example]:
    keys: list[str] = []
    for item, where in jsonl.objects(path):
        keys = keys or _keys_in(item, columns, where)
        values = [_value(item, key, column, where) for key, column in zip(keys, columns, strict=True)]
        yield _example(values, columns, where)


def _keys_in(item: dict[str, Any], columns: Sequence[Column], where: str) -> list[str]:
    """The key of each column, by the first object."""
    names = list(item)
    names += [column.key for column in columns if column.key and column.key not in names]
    found = find(names, columns, lambda column: names.index(column.key), named=True)
    if found is None:
        raise not_found(list(item), columns, where, "keys")
    return [names[place] for place in found.places]


def _value(item: dict[str, Any], key: str, column: Column, where: str) -> str:
    value = jsonl.value_of(item, key)
    if value is jsonl.MISSING:
        raise RegardError(
            f"{where}: no key '{key}' among {jsonl.keys_of(item)}; name the {column.name}'s key with --{column.name} "
            f"(data.{column.name})"
        )
    if column.kind == "label" and isinstance(value, bool):
        return "true" if value else "false"
    if column.kind == "label" and isinstance(value, int):
        return str(value)
    if column.kind == "label" and not isinstance(value, str):
        raise RegardError(f"{where}: the label '{key}' is {value!r:.60}: expected a text, a whole number or a boolean")
    return jsonl.text_of(value, key, where)


def _example(values: Sequence[str], columns: Sequence[Column], where: str) -> Example:
    """The example, its labels without spaces around them; an empty label is an error."""
    kept = []
    for value, column in zip(values, columns, strict=True):
        without_nul(value, where)
        if column.kind == "label":
            value = value.strip()
            if not value:
                raise RegardError(f"{where}: the label is empty: expected one in every row")
        kept.append(value)
    return Example(tuple(kept), where)
