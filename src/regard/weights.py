"""Reads tensors from safetensors files one by one, whole or by rows, and files that are divided into shards.

A tensor is read into memory of its own. A mapped file would need no copy where the precision stays the same, but its
pages count as memory of the process as long as it is mapped, and a mapped file that is cut short kills its reader.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from regard import files
from regard.errors import RegardError
from regard.header import LONGEST, Entry, identity, read_header
from regard.regular import open_regular, read_json

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
DTYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3": torch.float8_e4m3fn, "I16": torch.int16, "U16": torch.uint16, "F16": torch.float16,
    "BF16": torch.bfloat16, "I32": torch.int32, "U32": torch.uint32, "F32": torch.float32, "F64": torch.float64,
    "I64": torch.int64, "U64": torch.uint64,
}  # fmt: skip


@dataclass(frozen=True)
class Stored:
    """A tensor in a file; a read fails if the file is no longer the one whose header was read.

    Links must not lead out of ``folder``; None: the user named the file, and links may lead anywhere.
    """

    path: Path
    entry: Entry
    identity: tuple[int, ...]
    folder: Path | None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.entry.shape

    @property
    def dtype(self) -> torch.dtype:
        return DTYPES[self.entry.dtype]

    def read(self, start: int = 0, stop: int | None = None) -> Tensor:
        """The tensor, in memory of its own: all of it, or the rows from ``start`` to ``stop`` of its first axis.

        A RegardError for a file that cannot be read or has changed.
        """
        shape = self.shape
        if shape:
            rows = range(shape[0])[start:stop]
            shape = len(rows), *shape[1:]
        found = torch.empty(shape, dtype=self.dtype)
        if found.numel():
            before = start * (found.nbytes // shape[0]) if shape else 0
            numbers: Any = found.reshape(-1).view(torch.uint8).numpy()
            self._fill(memoryview(numbers), self.entry.start + before)
        return found

    def _fill(self, buffer: memoryview, start: int) -> None:
        """Reads the bytes from ``start`` on into the whole buffer."""
        with open_regular(self.path, self.folder) as file:
            try:
                same = identity(os.fstat(file.fileno())) == self.identity
                file.seek(start)
                filled = file.readinto(buffer) if same else 0
            except OSError as error:
                raise RegardError(f"{self.path}: cannot be read: {error.strerror or error}") from error
        if filled != len(buffer):
            raise RegardError(f"{self.path}: it changed while it was read; expected a file at rest")


def open_file(path: Path, *, named: bool = False) -> dict[str, Stored]:
    """{name: tensor} of a file; nothing but its header is read. ``named`` as in ``read_tensors``."""
    folder = None if named else path.parent
    entries, same = read_header(path, folder)
    return {name: Stored(path, entry, same, folder) for name, entry in entries.items()}


def open_weights(folder: Path) -> dict[str, Stored]:
    """{name: tensor} of ``model.safetensors``, or of the shards that ``model.safetensors.index.json`` lists."""
    if not os.path.lexists(folder / INDEX):
        return open_file(folder / WEIGHTS)
    if os.path.lexists(folder / WEIGHTS):
        raise RegardError(f"{folder / INDEX}: there is {WEIGHTS} too: delete the one that is not the model's")
    path = folder / INDEX
    shard_of = read_index(path)
    found: dict[str, Stored] = {}
    for shard in dict.fromkeys(shard_of.values()):
        for name, tensor in open_file(folder / shard).items():
            if shard_of.get(name) != shard:
                said = f"lists it in {shard_of[name]!r:.100}" if name in shard_of else "does not list it"
                raise RegardError(f"{folder / shard}: it holds {name!r:.100}, but {INDEX} {said}")
            found[name] = tensor
    for name, shard in shard_of.items():
        if name not in found:
            raise RegardError(f"{folder / shard}: {name!r:.100} is missing, but {INDEX} lists it there")
    return found


def read_index(path: Path) -> dict[str, str]:
    """{name of a tensor: name of its shard}; shards stand beside the index."""
    shard_of = read_json(path, LONGEST).get("weight_map")
    if not isinstance(shard_of, dict) or not shard_of:
        raise RegardError(f"{path}: expected 'weight_map', a table of tensors and their files")
    for name, shard in shard_of.items():
        if not _is_shard(shard):
            raise RegardError(
                f"{path}: {name!r:.100} is in {shard!r:.100}: expected the name of a .safetensors file here"
            )
    return shard_of


def files_of(folder: Path) -> list[str]:
    """The names of the files with weights; those that an index lists, if there is one that can be read."""
    if not os.path.lexists(folder / INDEX):
        return [WEIGHTS]
    return [INDEX, *dict.fromkeys(read_index(folder / INDEX).values())]


def _is_shard(name: Any) -> bool:
    plain = isinstance(name, str) and name.endswith(".safetensors") and len(name) < 256
    return plain and not any(sign in name for sign in "/\\\0:") and name.isprintable()


def read_tensors(path: Path, *, named: bool = False) -> dict[str, Tensor]:
    """The tensors of a file. ``named``: the user named this very file, so that links may lead anywhere."""
    return {name: tensor.read() for name, tensor in open_file(path, named=named).items()}


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file; inside a folder that is written as a whole, which also syncs it."""
    with files.writing(path, sum(tensor.nbytes for tensor in tensors.values())):
        path.touch()
        mode = path.stat().st_mode  # what the umask says; safetensors makes its files readable by the owner only
        safetensors.torch.save_file({name: tensor.detach() for name, tensor in tensors.items()}, path)
        path.chmod(mode)
