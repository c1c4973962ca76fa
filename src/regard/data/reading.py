"""Reads the lines of a text file or of standard input; compressed content is decompressed, other content an error.

Lines end at ``\\n`` only: U+2028, form feeds and lone carriage returns stand inside sentences, and splitting at them
would pair every later line with a wrong translation.
"""

from __future__ import annotations

import bz2
import io
import lzma
import os
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

from regard.data.contents import HEAD, advice, compression, foreign, not_utf8
from regard.errors import RegardError

COMPRESSED = (".gz", ".xz", ".bz2", ".zst")
LONGEST = 1 << 24  # bytes of a line, so that a file without line ends does not fill the memory
PART = 1 << 20  # bytes of a line that is read in parts, for text whose lines are content
_PACKED = 1 << 10  # compressed bytes decompressed at a time, to at most 32 MiB


def open_lines(path: str | Path) -> Iterator[bytes]:
    """The lines of a file (``-`` is standard input) without ``\\n`` or the ``\\r`` before it.

    A file with gzip, xz, bzip2 or zstd content is decompressed, whatever its name.
    """
    with _opened(str(path)) as (_, file):
        yield from _lines(file, str(path))


def check_opens(path: str | Path) -> None:
    """Raise for a file that cannot be opened, or whose first bytes are no text, however long its first line is."""
    with _opened(str(path)):
        pass


def read_lines(path: str | Path) -> Iterator[tuple[str, str]]:
    """Each line as text with its "file:line"; bytes that are not UTF-8 are an error, a byte order mark is dropped."""
    with _opened(str(path)) as (head, file):
        if fault := not_utf8(head):
            raise RegardError(f"{path}: {fault}")
        for number, line in enumerate(_lines(file, str(path)), 1):
            where = f"{path}:{number}"
            yield _decode(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line, where, head), where


def read_pieces(path: str | Path) -> Iterator[tuple[str, int]]:
    """The text of a file in pieces, each with the number of its line: lines with their breaks, long ones in parts.

    The pieces together are the whole text, without a byte order mark. A part of a line ends before a space.
    """
    with _opened(str(path)) as (head, file):
        if fault := not_utf8(head):
            raise RegardError(f"{path}: {fault}")
        number, rest, first = 1, b"", True
        while data := file.readline(PART):
            line = rest + data.removeprefix(b"\xef\xbb\xbf") if first else rest + data
            rest, first = b"", False
            if not line.endswith(b"\n") and len(data) == PART:
                space = line.rfind(b" ", 1)
                line, rest = (line[:space], line[space:]) if space > 0 else (b"", line)
                if len(rest) > LONGEST:
                    raise RegardError(
                        f"{path}:{number}: more than {LONGEST >> 20} MiB without a space or a line break; expected text"
                    )
            if line:
                yield _decode(line, f"{path}:{number}", head), number
            number += line.endswith(b"\n")
        if rest:
            yield _decode(rest, f"{path}:{number}", head), number


def bare(path: str) -> str:
    """The path without the ending of a compression."""
    for ending in COMPRESSED:
        path = path.removesuffix(ending)
    return path


def without_nul(text: str, where: str) -> str:
    """The text itself; an error if it has a NUL, which no sentence has."""
    if "\0" in text:
        raise RegardError(
            f"{where}: has a NUL character, which no text has; is the file whole, and UTF-8? tr -d '\\000' removes them"
        )
    return text


def _decode(line: bytes, where: str, head: bytes) -> str:
    """The line as text, or an error with the place, the first wrong byte and advice."""
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        wrong = line[error.start]
        sample = head if line in head else line
        raise RegardError(
            f"{where}: byte {error.start + 1} of the line (0x{wrong:02x}) is not UTF-8; {advice(sample)}"
        ) from None


def _lines(file: IO[bytes], path: str) -> Iterator[bytes]:
    for number, line in enumerate(iter(partial(file.readline, LONGEST + 1), b""), 1):
        if len(line) > LONGEST:
            raise RegardError(f"{path}:{number}: a line of more than {LONGEST >> 20} MiB; expected a sentence a line")
        yield line.removesuffix(b"\n").removesuffix(b"\r")


@contextmanager
def _opened(path: str) -> Iterator[tuple[bytes, IO[bytes]]]:
    """The first bytes and the whole of a file, decompressed; failures are one line that names the file."""
    try:
        if path != "-" and os.path.isdir(path):
            raise RegardError(f"{path}: is a folder; expected a text file")
        with ExitStack() as stack:
            raw: Any = sys.stdin.buffer if path == "-" else stack.enter_context(open(path, "rb"))
            yield _decompressed(path, raw, stream=path == "-" or not os.path.isfile(path))
    except FileNotFoundError:
        raise RegardError(f"{path}: no such file") from None
    except OSError as error:
        raise RegardError(f"{path}: cannot be read: {error.strerror or error}") from None


def _decompressed(path: str, raw: Any, stream: bool) -> tuple[bytes, IO[bytes]]:
    """The first bytes and the whole of a file's content; of a ``stream`` at most one line is waited for."""
    head, file = _with_head(raw, stream)
    kind = compression(head)
    if kind:
        head, file = _with_head(io.BufferedReader(_Frames(path, file, _frame_of(kind, path)), HEAD), stream)
        if compression(head):
            raise RegardError(f"{path}: is compressed twice; decompress it once")
    elif path.endswith(COMPRESSED):
        raise RegardError(
            f"{path}: damaged, or not a compressed file: its name says so and its content does not; "
            "rename it if it is plain text"
        )
    if fault := foreign(head, path):
        raise RegardError(f"{path}: {fault}")
    return head, file


def _with_head(file: Any, stream: bool) -> tuple[bytes, IO[bytes]]:
    """The first bytes of a file, and a file object from its beginning."""
    head = b""
    while len(head) < HEAD and not (stream and b"\n" in head):
        more = file.read1(HEAD - len(head))
        if not more:
            break
        head += more
    return head, io.BufferedReader(_Joined(head, file), HEAD)


class _Joined(io.RawIOBase):
    """A file of bytes already read, followed by the rest."""

    def __init__(self, head: bytes, rest: Any) -> None:
        self._head, self._rest = head, rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._head or self._rest.read1(len(buffer))
        size = min(len(buffer), len(data))
        buffer[:size], self._head = data[:size], data[size:]
        return size


def _frame_of(kind: str, path: str) -> Callable[[], Any]:
    """A function that makes the decompressor of one stream of a compressed file."""
    if kind == "gzip":
        return lambda: zlib.decompressobj(wbits=31)
    if kind == "xz":
        return lzma.LZMADecompressor
    if kind == "bzip2":
        return bz2.BZ2Decompressor
    try:
        import zstandard
    except ImportError:
        raise RegardError(f"{path}: zstd files need one more package: pip install 'regard[zstd]'") from None
    return lambda: _Zstandard(zstandard)


class _Zstandard:
    """The decompressor of one zstd frame; its errors become ValueError, which needs no import."""

    def __init__(self, package: Any) -> None:
        self._frame, self._error = package.ZstdDecompressor().decompressobj(), package.ZstdError

    eof = property(lambda self: self._frame.eof)
    unused_data = property(lambda self: self._frame.unused_data)

    def decompress(self, data: bytes) -> bytes:
        try:
            return bytes(self._frame.decompress(data))
        except self._error as error:
            raise ValueError(str(error)) from None


class _Frames(io.RawIOBase):
    """The decompressed bytes of a file of one or more streams in sequence.

    The standard library silently ignores bytes after an xz or bzip2 stream that do not decompress; here they are an
    error.
    """

    def __init__(self, path: str, file: IO[bytes], start: Callable[[], Any]) -> None:
        self._path, self._file, self._start = path, file, start
        self._frame: Any = None  # the current stream
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            while not self._ready:
                if not self._unpack():
                    return 0
        except (zlib.error, lzma.LZMAError, EOFError, ValueError, OSError) as error:
            raise RegardError(f"{self._path}: damaged or cut off compressed file ({error})") from None
        size = min(len(buffer), len(self._ready))
        buffer[:size], self._ready = self._ready[:size], self._ready[size:]
        return size

    def _unpack(self) -> bool:
        """Decompress the next bytes, which may give none yet; False at the end of the file."""
        data = b""
        if self._frame is not None and self._frame.eof:
            data, self._frame = self._frame.unused_data, None
        data = data or self._file.read(_PACKED)
        if self._frame is None:
            data = data.lstrip(b"\0")  # padding between and after streams
            if not data:
                return bool(self._file.peek(1))  # type: ignore[attr-defined]
            self._frame = self._start()
        elif not data:
            raise EOFError("it ends before its end mark")
        self._ready = memoryview(self._frame.decompress(data))
        return True
