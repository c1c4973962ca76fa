"""Reads the header of a safetensors file: names, types, shapes and places of its tensors, before their data.

A ``config.json`` of a few bytes can ask for a billion layers. The header says first what the weights are, so that no
larger model is built.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any, NamedTuple

from regard.errors import RegardError
from regard.regular import open_regular, parse_json

LONGEST = 1 << 24  # bytes of a header, enough for 100,000 tensors
SIDES = 8  # dimensions of a tensor, at most: the product of a million large numbers takes minutes
WIDTHS = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2, "I32": 4,
          "U32": 4, "F32": 4, "F64": 8, "I64": 8, "U64": 8}  # fmt: skip


class Entry(NamedTuple):
    """A tensor of a file: the name of its type, its shape, and the first of its bytes, counted from the file's."""

    dtype: str
    shape: tuple[int, ...]
    start: int


class Header(NamedTuple):
    """What a file holds, and which file it was: device, inode, size and time of the last change."""

    entries: dict[str, Entry]
    identity: tuple[int, ...]


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """{name: shape} of the tensors; a RegardError if header and size of the file do not agree."""
    return {name: entry.shape for name, entry in read_header(path, path.parent).entries.items()}


def read_header(path: Path, folder: Path | None) -> Header:
    """The tensors of a file in a ``folder``; a RegardError if header and size of the file do not agree.

    As the format demands, the tensors lie one after another, without gaps.
    """
    with open_regular(path, folder) as file:
        try:
            state = os.fstat(file.fileno())
            length = int.from_bytes(file.read(8), "little")
            if state.st_size < 8 or length > min(state.st_size - 8, LONGEST):
                raise RegardError(f"{path}: damaged, not a safetensors file (its header would have {length:,} bytes)")
            text = file.read(length)
        except OSError as error:
            raise RegardError(f"{path}: cannot be read: {error.strerror or error}") from error
    try:
        header = parse_json(text.decode("utf-8"))
        if not isinstance(header, dict):
            raise ValueError("the header is not a table")
        _check_metadata(header.pop("__metadata__", {}))
        shapes = {name: _shape(name, entry) for name, entry in header.items()}
        sizes = {name: math.prod(shape) * WIDTHS[header[name]["dtype"]] for name, shape in shapes.items()}
        held = sum(sizes.values())
        if 8 + length + held != state.st_size:
            raise ValueError(f"{state.st_size:,} bytes, but the header makes it {8 + length + held:,}")
        _check_offsets(header, sizes)
    except (ValueError, RecursionError) as error:
        raise RegardError(f"{path}: damaged, not a safetensors file ({' '.join(str(error).split())[:100]})") from None
    entries = {
        name: Entry(header[name]["dtype"], shape, 8 + length + header[name]["data_offsets"][0])
        for name, shape in shapes.items()
    }
    return Header(entries, identity(state))


def identity(state: os.stat_result) -> tuple[int, ...]:
    """What changes when a file is replaced or written to."""
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns


def _shape(name: str, entry: Any) -> tuple[int, ...]:
    """The shape in an entry of the header; a ValueError if the entry is malformed."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"the entry {name!r:.60} is not one of a tensor")
    shape = entry["shape"]
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in WIDTHS:
        raise ValueError(f"{name!r:.60} is of type {entry['dtype']!r:.20}")
    if not isinstance(shape, list) or len(shape) > SIDES:
        raise ValueError(f"the shape of {name!r:.60} is no list of at most {SIDES} sides")
    if not all(type(side) is int and 0 <= side < 1 << 48 for side in shape):
        raise ValueError(f"the shape of {name!r:.60} is {shape!r:.40}")
    return tuple(shape)


def _check_metadata(metadata: Any) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("'__metadata__' is no table of texts")


def _check_offsets(header: dict[str, Any], sizes: dict[str, int]) -> None:
    """A ValueError unless the tensors fill the data one after another."""
    for name in header:
        offsets = header[name]["data_offsets"]
        if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(one) is int for one in offsets):
            raise ValueError(f"the offsets of {name!r:.60} are {offsets!r:.40}")
    end = 0
    for name in sorted(header, key=lambda name: tuple(header[name]["data_offsets"])):
        start, stop = header[name]["data_offsets"]
        if start != end or stop - start != sizes[name]:
            raise ValueError(f"the offsets of {name!r:.60} are {(start, stop)!r:.60}, not {(end, end + sizes[name])}")
        end = stop
