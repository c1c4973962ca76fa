"""Documents as pieces of text with their line breaks: a plain text file is one document, a row of a table is one.

Pieces end at line ends, so that files of any size are read little by little; the ids of a document are those of its
pieces, one after another.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from regard.config import DataConfig
from regard.data.columns import Column
from regard.data.corpus import is_one_file
from regard.data.examples import file_of, read_examples
from regard.data.reading import read_pieces, without_nul
from regard.errors import RegardError
from regard.schema import Entry

GROUPED = 4096  # characters of a piece for tokenizers whose tokens may cross line ends


class Piece(NamedTuple):
    """A part of a document, with the line on which it begins (or that of its row)."""

    text: str
    line: int
    first: bool  # it begins a document
    last: bool  # it ends a document


def read_documents(entry: Entry, data: DataConfig, columns: Sequence[Column]) -> Iterator[Piece]:
    """The documents of a corpus as pieces; an empty corpus is an error."""
    path, piece = file_of(entry, text=True), None
    for piece in _rows(entry, data, columns) if is_one_file(path) else _text(path):
        yield piece
    if piece is None:
        raise RegardError(f"{path}: the corpus is empty")


def check_key(entries: Iterable[Entry], columns: Sequence[Column]) -> None:
    """Raise for the key of a column where all files are plain text, which has none."""
    files = [file_of(entry, text=True) for entry in entries]
    if columns[0].key and not any(map(is_one_file, files)):
        raise RegardError(
            f"{files[0]}: a plain text has no columns: leave out --text {columns[0].key} (data.text), which names a "
            "column or key of a .tsv, .csv or .jsonl file"
        )


def is_one_document(entries: Iterable[Entry]) -> bool:
    """Whether a corpus is one plain text file, after which no end mark stands."""
    listed = list(entries)
    return len(listed) == 1 and not is_one_file(file_of(listed[0], text=True))


def grouped(pieces: Iterable[Piece], size: int = GROUPED) -> Iterator[Piece]:
    """The pieces of a document joined to about ``size`` characters, each ending before a line that begins with text."""
    held: list[Piece] = []

    def joined() -> Piece:
        return Piece("".join(piece.text for piece in held), held[0].line, held[0].first, held[-1].last)

    length = 0
    for piece in pieces:
        if held and (piece.first or (length >= size and not piece.text[:1].isspace())):
            yield joined()
            held, length = [], 0
        held.append(piece)
        length += len(piece.text)
    if held:
        yield joined()


def _rows(entry: Entry, data: DataConfig, columns: Sequence[Column]) -> Iterator[Piece]:
    for example in read_examples(entry, data, columns):
        yield Piece(example.values[0], int(example.where.rpartition(":")[2]), True, True)


def _text(path: str) -> Iterator[Piece]:
    """A file's text; the last piece is known when there is no next one."""
    before: Piece | None = None
    for text, line in read_pieces(path):
        without_nul(text, f"{path}:{line}")
        if before is not None:
            yield before
        before = Piece(text, line, before is None, False)
    if before is not None:
        yield before._replace(last=True)
