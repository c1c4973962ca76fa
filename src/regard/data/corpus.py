"""Sentence pairs from files, read as a stream: plain pairs, TSV, JSONL, each also compressed.

Lines end at ``\\n`` and nowhere else: U+2028, form feeds and lone carriage returns stand inside sentences, and a reader
that splits at them puts every later line beside a wrong translation. A fault is one error that names file and line.
"""

from __future__ import annotations

import gzip
import io
import json
import lzma
import os
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from regard.config import DataConfig
from regard.errors import RegardError

COMPRESSED = (".gz", ".xz", ".zst")
_TABLES = (".tsv", ".jsonl", ".ndjson")


class Pair(NamedTuple):
    """One sentence and its translation; ``where`` is the source's place, as "file:line"."""

    source: str
    target: str
    where: str


def open_lines(path: str | Path) -> Iterator[bytes]:
    """The lines of a file (plain, .gz, .xz, .zst; ``-`` is standard input) without ``\\n`` or the ``\\r`` before it."""
    with _opened(str(path)) as file:
        for line in file:  # binary files split at b"\n" only
            yield line.removesuffix(b"\n").removesuffix(b"\r")


@contextmanager
def _opened(path: str) -> Iterator[IO[bytes]]:
    """A binary file to read; failures to open, read or decompress become one line that names it."""
    try:
        if path == "-":
            yield sys.stdin.buffer
            return
        if os.path.isdir(path):
            raise RegardError(f"{path}: is a folder; expected a text file")
        with _decompressed(path) as file:
            yield file
    except FileNotFoundError:
        raise RegardError(f"{path}: no such file") from None
    except (EOFError, lzma.LZMAError, gzip.BadGzipFile, zlib.error) as error:
        raise RegardError(f"{path}: damaged or cut off compressed file ({error})") from None
    except OSError as error:
        raise RegardError(f"{path}: cannot be read: {error.strerror or error}") from None


def _decompressed(path: str) -> IO[bytes]:
    if path.endswith(".gz"):
        return cast(IO[bytes], gzip.open(path, "rb"))
    if path.endswith(".xz"):
        return lzma.open(path, "rb")
    if path.endswith(".zst"):
        return cast(IO[bytes], io.BufferedReader(_Zstandard(path), 1 << 16))
    return open(path, "rb")


class _Zstandard(io.RawIOBase):
    """The bytes of a .zst file of any number of frames; the package's own reader does not notice a file cut off."""

    def __init__(self, path: str) -> None:
        try:
            import zstandard
        except ImportError:
            raise RegardError(f"{path}: .zst files need one more package: pip install 'regard[zstd]'") from None
        self._path, self._package = path, zstandard
        self._file = open(path, "rb")  # noqa: SIM115  (closed in close)
        self._frame: Any = None  # the frame that has begun and not ended
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            data = b"" if self._frame is None else self._frame.unused_data
            if self._frame is not None and self._frame.eof:
                self._frame = None
            data = data or self._file.read(1 << 16)
            if not data:
                if self._frame is not None:
                    raise EOFError("it ends before its end mark")
                return 0
            self._frame = self._frame or self._package.ZstdDecompressor().decompressobj()
            try:
                self._ready = self._frame.decompress(data)
            except self._package.ZstdError as error:
                raise RegardError(f"{self._path}: damaged compressed file ({error})") from None
        size = min(len(buffer), len(self._ready))
        buffer[:size], self._ready = self._ready[:size], self._ready[size:]
        return size

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def read_lines(path: str | Path) -> Iterator[tuple[str, str]]:
    """Each line as text, with its "file:line"; bytes that are not UTF-8 are an error, a byte order mark is dropped."""
    for number, line in enumerate(open_lines(path), 1):
        where = f"{path}:{number}"
        yield decode(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line, where), where


def decode(line: bytes, where: str) -> str:
    """UTF-8 or an error that names the place and the first wrong byte."""
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        wrong = line[error.start]
        raise RegardError(
            f"{where}: byte {error.start + 1} of the line (0x{wrong:02x}) is not UTF-8; "
            "convert the file, for example with iconv -f GB18030 -t UTF-8"
        ) from None


def read_pairs(entry: str, data: DataConfig) -> Iterator[Pair]:
    """The pairs of one corpus as ``data.train`` or ``data.valid`` names it; an empty corpus is an error."""
    first = None
    for first in _read(files_of(entry, data), data):
        yield first
    if first is None:
        raise RegardError(f"{entry}: the corpus is empty")


def _read(files: list[str], data: DataConfig) -> Iterator[Pair]:
    if len(files) == 2:
        return _read_two(files[0], files[1])
    if _bare(files[0]).endswith(".tsv"):
        return _read_tsv(files[0], data)
    return _read_jsonl(files[0], data)


def files_of(entry: str, data: DataConfig) -> list[str]:
    """The one or two files that an entry names; ``$REGARD_DATA`` is replaced (default: ../shared/data)."""
    entry = entry.replace("$REGARD_DATA", os.environ.get("REGARD_DATA", "../shared/data"))
    if "," in entry:
        files = [part.strip() for part in entry.split(",")]
        if len(files) != 2 or not all(files):
            raise RegardError(f"data: '{entry}': expected two files, as in a.{data.source},b.{data.target}")
        return files
    if entry == "-" or _bare(entry).endswith(_TABLES):
        return [entry]
    if _bare(entry).endswith(".parquet"):
        raise RegardError(f"{entry}: Parquet is not read yet; convert it to JSONL or TSV")
    if os.path.isfile(entry):
        raise RegardError(
            f"{entry}: one file holds both languages only as .tsv or .jsonl; for two files write "
            f"'A.{data.source},A.{data.target}' or their common prefix"
        )
    return [_of_prefix(entry, language) for language in (data.source, data.target)]


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
        yield Pair(left[0], right[0], left[1])


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
