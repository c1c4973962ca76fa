"""Reads files that may come from a stranger: only regular ones, of bounded size, inside their folder.

A FIFO keeps its reader waiting for ever, ``/dev/zero`` has no end, and a link among a model's files can lead to any
file of the machine. Links inside the folder are followed, and those of a Hugging Face cache too
(``models--ORG--NAME/snapshots/HASH/config.json`` leads to ``models--ORG--NAME/blobs/…``): there ``snapshots/`` and
``blobs/`` of ``models--ORG--NAME`` count as one folder.

This file does not import PyTorch.
"""

from __future__ import annotations

import json
import os
import stat
from collections import Counter
from io import BufferedReader
from pathlib import Path
from typing import Any, NoReturn

from regard.errors import RegardError

JSON_LIMIT = 1 << 23  # bytes of a JSON or TOML file; tokenizer.json has a limit of its own
HUB = "models--"  # prefix of a model's folder in a Hugging Face cache
HUB_FOLDERS = ("snapshots", "blobs")  # the folders of its files

_PACKAGE = Path(__file__).parent
_KINDS = {stat.S_IFIFO: "a FIFO", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFSOCK: "a socket",
          stat.S_IFDIR: "a folder"}  # fmt: skip


def open_regular(path: Path, folder: Path | None = None) -> BufferedReader:
    """Open a regular file for reading without waiting; links must not lead out of ``folder``.

    With ``folder=None``, for a file that the user named, links may lead anywhere. Every fault is a RegardError that
    names the file.
    """
    path = Path(path)
    try:
        place = path if folder is None else _followed(path, folder)
        _check_kind(path, place.stat().st_mode)
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
        if folder is not None:
            flags |= getattr(os, "O_NOFOLLOW", 0)  # a link may have replaced the checked file
        handle = os.open(place, flags)
        try:
            _check_kind(path, os.fstat(handle).st_mode)  # another file may have replaced it
            return os.fdopen(handle, "rb")
        except BaseException:
            os.close(handle)
            raise
    except FileNotFoundError as error:
        raise RegardError(f"{path}: {'a link to nothing' if path.is_symlink() else 'no such file'}") from error
    except OSError as error:
        raise RegardError(f"{path}: cannot be read: {error.strerror or error}") from error


def read_regular(path: Path, folder: Path | None = None, limit: int | None = JSON_LIMIT) -> bytes:
    """The bytes of a regular file, at most ``limit``; None: as many as this machine has memory."""
    with open_regular(path, folder) as file:
        size = os.fstat(file.fileno()).st_size
        if limit is None:
            limit = memory()
            if size > limit:
                raise RegardError(f"{path}: {size:,} bytes, more than this machine has memory ({limit:,})")
        if size > limit:
            raise RegardError(f"{path}: {size:,} bytes, expected at most {limit:,} of such a file")
        try:
            # Never more than the limit, also from a file that grows or reports no size (/proc).
            data = file.read(size + 1)
        except OSError as error:
            raise RegardError(f"{path}: cannot be read: {error.strerror or error}") from error
    if data is None or len(data) > size:
        raise RegardError(f"{path}: it changed while it was read; expected a file at rest")
    return data


def memory() -> int:
    """Bytes of physical memory; 1 << 62 if the system does not report it."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 1 << 62


def lies_in(path: Path, folder: Path) -> bool:
    """Whether a file, all links followed, is inside a folder (or inside the same model of a Hugging Face cache)."""
    return _is_inside(Path(os.path.realpath(path)), folder)


def _is_inside(real: Path, folder: Path) -> bool:
    """``lies_in`` for a path without links."""
    inside = Path(os.path.realpath(folder))
    roots = [inside]
    for parent in inside.parents:
        if parent.name.startswith(HUB) and inside.relative_to(parent).parts[0] in HUB_FOLDERS:
            roots += [parent / name for name in HUB_FOLDERS]
    return any(real.is_relative_to(root) for root in roots)


def _followed(path: Path, folder: Path) -> Path:
    """The real path, which must be inside ``folder``."""
    real = Path(os.path.realpath(path, strict=True))
    # An installer may keep the package's files elsewhere and link to them.
    if not _is_inside(real, folder) and not Path(os.path.abspath(folder)).is_relative_to(_PACKAGE):
        raise RegardError(
            f"{path}: a link out of its folder, to {real}: put the file itself there (links inside the folder, or of a "
            "Hugging Face cache, are followed)"
        )
    return real


def _check_kind(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise RegardError(f"{path}: expected a regular file, found {_KINDS.get(stat.S_IFMT(mode), 'something else')}")


def read_json(path: Path, limit: int = JSON_LIMIT) -> dict[str, Any]:
    """Read a JSON object of at most ``limit`` bytes; anything else is a RegardError that names the file."""
    try:
        data = parse_json(read_bytes(path, limit).decode("utf-8"))
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise RegardError(f"{path}: not valid JSON ({str(error)[:100]})") from error
    if not isinstance(data, dict):
        raise RegardError(f"{path}: expected a JSON object, found {type(data).__name__}")
    return data


def parse_json(text: str) -> Any:
    """Parse strict JSON: a ValueError for NaN or a repeated key, a RecursionError for too deep nesting."""
    return json.loads(text, parse_constant=_no_constant, object_pairs_hook=each_once)


def each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON (``object_pairs_hook``); a ValueError for a repeated key.

    Otherwise the later value would hide the earlier one; a flipped bit can make two names equal.
    """
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key '{twice:.60}' stands twice in an object")
    return found


def read_bytes(path: Path, limit: int | None = None) -> bytes:
    """Read a whole file of a directory; never memory-mapped, since it may be replaced meanwhile."""
    return read_regular(path, Path(path).parent, limit)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")
