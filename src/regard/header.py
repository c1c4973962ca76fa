"""Reads the header of a safetensors file: names and shapes of its tensors, before their data.

A ``config.json`` of a few bytes can ask for a billion layers. The header says first what the weights are, so that no
larger model is built.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from regard.errors import RegardError
from regard.regular import open_regular, parse_json

LONGEST = 1 << 24  # bytes of a header, enough for 100,000 tensors
SIDES = 8  # dimensions of a tensor, at most: the product of a million large numbers takes minutes
WIDTHS = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2, "I32": 4,
          "U32": 4, "F32": 4, "F64": 8, "I64": 8, "U64": 8}  # fmt: skip


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """{name: shape} of the tensors; a RegardError if header and size of the file do not agree."""
    with open_regular(path, path.parent) as file:
        try:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, LONGEST):
                raise RegardError(f"{path}: damaged, not a safetensors file (its header would have {length:,} bytes)")
            text = file.read(length)
        except OSError as error:
            raise RegardError(f"{path}: cannot be read: {error.strerror or error}") from error
    try:
        header = parse_json(text.decode("utf-8"))
        if not isinstance(header, dict):
            raise ValueError("the header is not a table")
        header.pop("__metadata__", None)
        shapes = {name: _shape(name, entry) for name, entry in header.items()}
        held = sum(math.prod(shape) * WIDTHS[header[name]["dtype"]] for name, shape in shapes.items())
        if 8 + length + held != size:
            raise ValueError(f"{size:,} bytes, but the header makes it {8 + length + held:,}")
    except (ValueError, RecursionError) as error:
        raise RegardError(f"{path}: damaged, not a safetensors file ({' '.join(str(error).split())[:100]})") from None
    return shapes


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
