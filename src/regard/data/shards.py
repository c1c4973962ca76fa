"""Shards: the texts and ids of a corpus's columns on disk, memory-mapped.

A corpus ``NAME`` is a set of plain arrays in one folder: for each column ``NAME.COLUMN.text`` (UTF-8, concatenated),
``NAME.COLUMN.ids`` and the end of each value in either (``.ends``), and for each example the corpus and line it came
from. The kernel reads only the pages that are used.
"""

from __future__ import annotations

import contextlib
from array import array
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from regard.data.columns import Column, is_stream
from regard.errors import RegardError
from regard.files import writing


class Writer:
    """A context manager that appends examples to the arrays of one corpus; ``sizes``: the numbers of ids."""

    def __init__(self, folder: Path, name: str, columns: Sequence[Column], sizes: Sequence[int]) -> None:
        self.folder, self.name = folder, name
        self.count = 0
        self.kinds = tuple("uint16" if size <= 1 << 16 else "int32" for size in sizes)
        self._names = [column.name for column in columns]
        self._ends = {f"{name}.{what}.ends": 0 for name in self._names for what in ("text", "ids")}
        self._stack = contextlib.ExitStack()
        self._files: dict[str, IO[bytes]] = {}

    def __enter__(self) -> Writer:
        names = [f"{name}.{what}" for name in self._names for what in ("text", "ids", "text.ends", "ids.ends")]
        self._stack.enter_context(writing(self.folder / self.name))
        for name in (*names, "corpus", "line"):
            path = self.folder / f"{self.name}.{name}"
            self._files[name] = self._stack.enter_context(open(path, "wb", buffering=1 << 18))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def add(self, texts: Sequence[str], ids: Sequence[Sequence[int]], corpus: int, line: int) -> None:
        """Append an example, from line ``line`` of training corpus number ``corpus``."""
        for name, kind, text, row in zip(self._names, self.kinds, texts, ids, strict=True):
            self._append(f"{name}.text", text.encode(), len(text.encode()))
            self._append(f"{name}.ids", array("H" if kind == "uint16" else "i", row).tobytes(), len(row))
        self._files["corpus"].write(array("H", (corpus,)).tobytes())
        self._files["line"].write(array("q", (line,)).tobytes())
        self.count += 1

    def _append(self, name: str, data: bytes, size: int) -> None:
        self._files[name].write(data)
        ends = f"{name}.ends"
        self._ends[ends] += size
        self._files[ends].write(array("q", (self._ends[ends],)).tobytes())

    def info(self, files: Sequence[str]) -> dict[str, Any]:
        """The values from which ``Corpus`` opens the arrays; ``files`` are the source files, by number of corpus."""
        return {"pairs": self.count, "kinds": list(self.kinds), "files": list(files)}


class Corpus:
    """The examples of a corpus by index; ids are without marks.

    ``lengths`` counts the ids of each column, int32 [n] for each. Of a column of texts alone the examples are
    pieces of documents, mostly lines with their line breaks; ``stream`` is all of them, ``after`` the ids after each
    document.
    """

    def __init__(
        self, folder: Path, name: str, info: dict[str, Any], fingerprint: str, columns: Sequence[Column]
    ) -> None:
        self.name, self.fingerprint, self.columns = name, fingerprint, tuple(columns)
        self.files: list[str] = list(info["files"])
        self.after: tuple[int, ...] = tuple(info.get("after", ()))
        self._folder, self._count = folder, int(info["pairs"])
        count, names = self._count, [column.name for column in columns]
        self.corpus_of = self._array("corpus", "uint16", count)
        self._line = self._array("line", "int64", count)
        self._text_ends = [self._array(f"{name}.text.ends", "int64", count) for name in names]
        self._id_ends = [self._array(f"{name}.ids.ends", "int64", count) for name in names]
        self._texts = [
            self._array(f"{name}.text", "uint8", _last(ends)) for name, ends in zip(names, self._text_ends, strict=True)
        ]
        self._ids = [
            self._array(f"{name}.ids", kind, _last(ends))
            for name, kind, ends in zip(names, info["kinds"], self._id_ends, strict=True)
        ]
        self.lengths: tuple[NDArray[np.int32], ...] = tuple(
            np.diff(ends, prepend=0).astype(np.int32) for ends in self._id_ends
        )

    def __len__(self) -> int:
        return self._count

    def ids(self, column: int, index: int) -> NDArray[Any]:
        """The ids of one value, a view of the mapped file; of a label one id, its number."""
        return _slice(self._ids[column], self._id_ends[column], index)

    def text(self, column: int, index: int) -> str:
        """One value, as in its file."""
        return _slice(self._texts[column], self._text_ends[column], index).tobytes().decode()

    @property
    def stream(self) -> NDArray[Any]:
        """The ids of all documents one after another [n], a view of the mapped file; of one column alone."""
        if not is_stream(self.columns):
            raise TypeError(f"a corpus of {len(self.columns)} columns is no stream")
        return self._ids[0]

    def where_in_stream(self, position: int) -> str:
        """The place of a token of the stream, "file:line"."""
        if not 0 <= position < len(self.stream):
            raise IndexError(f"position {position} of {len(self.stream)}")
        return self.where(int(np.searchsorted(self._id_ends[0], position, side="right")))

    def where(self, index: int) -> str:
        """The place of an example, "file:line"."""
        return f"{self.files[int(self.corpus_of[index])]}:{int(self._line[index])}"

    def _array(self, name: str, kind: str, count: int) -> NDArray[Any]:
        path = self._folder / f"{self.name}.{name}"
        wanted = count * np.dtype(kind).itemsize
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            raise RegardError(f"{path}: missing") from None
        if size != wanted:
            raise RegardError(f"{path}: damaged: {size} bytes, expected {wanted}")
        if not count:
            return np.empty(0, dtype=kind)  # an empty file cannot be mapped
        return np.memmap(path, dtype=kind, mode="r")


def _last(ends: NDArray[Any]) -> int:
    return int(ends[-1]) if len(ends) else 0


def _slice(values: NDArray[Any], ends: NDArray[Any], index: int) -> NDArray[Any]:
    if not 0 <= index < len(ends):
        raise IndexError(f"example {index} of {len(ends)}")
    return values[int(ends[index - 1]) if index else 0 : int(ends[index])]
