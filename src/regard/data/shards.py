"""Shards: text and ids of both sides of a corpus on disk, memory-mapped.

A corpus ``NAME`` is a set of plain arrays in one folder: ``NAME.source.text`` (UTF-8, concatenated),
``NAME.source.ids``, the end of each sentence in either (``.ends``), the same for the target, and for each pair the
corpus and line it came from. The kernel reads only the pages that are used.
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

from regard.errors import RegardError
from regard.files import writing

SIDES = ("source", "target")


class Writer:
    """A context manager that appends pairs to the arrays of one corpus."""

    def __init__(self, folder: Path, name: str, vocabularies: tuple[int, int]) -> None:
        self.folder, self.name = folder, name
        self.count = 0
        self.kinds = tuple("uint16" if size <= 1 << 16 else "int32" for size in vocabularies)
        self._ends = {f"{side}.{what}.ends": 0 for side in SIDES for what in ("text", "ids")}
        self._stack = contextlib.ExitStack()
        self._files: dict[str, IO[bytes]] = {}

    def __enter__(self) -> Writer:
        names = [f"{side}.{what}" for side in SIDES for what in ("text", "ids", "text.ends", "ids.ends")]
        self._stack.enter_context(writing(self.folder / self.name))
        for name in (*names, "corpus", "line"):
            path = self.folder / f"{self.name}.{name}"
            self._files[name] = self._stack.enter_context(open(path, "wb", buffering=1 << 18))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def add(self, texts: tuple[str, str], ids: tuple[Sequence[int], Sequence[int]], corpus: int, line: int) -> None:
        """Append a pair, from line ``line`` of training corpus number ``corpus``."""
        for side, kind, text, row in zip(SIDES, self.kinds, texts, ids, strict=True):
            self._append(f"{side}.text", text.encode(), len(text.encode()))
            self._append(f"{side}.ids", array("H" if kind == "uint16" else "i", row).tobytes(), len(row))
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
    """Pairs of sentences by index. Ids are without special tokens; ``lengths`` counts them, int32 [n] for each side."""

    def __init__(self, folder: Path, name: str, info: dict[str, Any], fingerprint: str) -> None:
        self.name, self.fingerprint = name, fingerprint
        self.files: list[str] = list(info["files"])
        self._folder, self._pairs = folder, int(info["pairs"])
        count = self._pairs
        self.corpus_of = self._array("corpus", "uint16", count)
        self._line = self._array("line", "int64", count)
        self._text_ends = [self._array(f"{side}.text.ends", "int64", count) for side in SIDES]
        self._id_ends = [self._array(f"{side}.ids.ends", "int64", count) for side in SIDES]
        self._texts = [
            self._array(f"{side}.text", "uint8", _last(ends)) for side, ends in zip(SIDES, self._text_ends, strict=True)
        ]
        self._ids = [
            self._array(f"{side}.ids", kind, _last(ends))
            for side, kind, ends in zip(SIDES, info["kinds"], self._id_ends, strict=True)
        ]
        source, target = (np.diff(ends, prepend=0).astype(np.int32) for ends in self._id_ends)
        self.lengths: tuple[NDArray[np.int32], NDArray[np.int32]] = (source, target)

    def __len__(self) -> int:
        return self._pairs

    def source_ids(self, index: int) -> NDArray[Any]:
        """The ids of a source, a view of the mapped file."""
        return _slice(self._ids[0], self._id_ends[0], index)

    def target_ids(self, index: int) -> NDArray[Any]:
        """The ids of a target, a view of the mapped file."""
        return _slice(self._ids[1], self._id_ends[1], index)

    def source_text(self, index: int) -> str:
        """The text of a source, as in its file."""
        return _slice(self._texts[0], self._text_ends[0], index).tobytes().decode()

    def target_text(self, index: int) -> str:
        """The text of a target, as in its file."""
        return _slice(self._texts[1], self._text_ends[1], index).tobytes().decode()

    def where(self, index: int) -> str:
        """The place of a pair's source, "file:line"."""
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
        raise IndexError(f"pair {index} of {len(ends)}")
    return values[int(ends[index - 1]) if index else 0 : int(ends[index])]
