"""Manifests: the size and SHA-256 of every file of a folder (``manifest.json``), and the check against them.

This file does not import PyTorch.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from regard.errors import RegardError
from regard.regular import open_regular, read_json
from regard.surrogates import has_half

MANIFEST = "manifest.json"
FILES = 10_000  # files in a manifest, far more than any of regard's folders has


def verify(folder: Path, needed: Iterable[str] = ()) -> dict[str, str]:
    """Check every file against the manifest and return {name: SHA-256}; the first difference is a RegardError.

    ``needed`` are the files that will be read: one that exists without being listed is a difference too.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    manifest = read_json(path)
    if manifest.get("format_version") != 1:
        raise RegardError(f"{path}: unknown format_version {manifest.get('format_version')!r:.40}, expected 1")
    entries = manifest.get("files")
    if not isinstance(entries, dict) or not entries:
        raise RegardError(f"{path}: damaged: it lists no files")
    if len(entries) > FILES:
        raise RegardError(f"{path}: damaged: it lists {len(entries):,} files, expected at most {FILES:,}")
    hashes: dict[str, str] = {}
    known: dict[tuple[int, ...], str] = {}
    for name, entry in entries.items():
        if not is_inside(name) or not isinstance(entry, dict) or set(entry) != {"bytes", "sha256"}:
            raise RegardError(f"{path}: damaged at the entry {name!r}")
        hashes[name] = _check(folder, name, entry, known)
    for name in needed:
        if name not in hashes and os.path.lexists(folder / name):
            raise RegardError(
                f"{folder / name}: {MANIFEST} does not list it, so that it is unchecked: put back the {MANIFEST} that "
                "belongs to these files, or delete it to use them unchecked"
            )
    return hashes


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def entry_of(path: Path) -> dict[str, Any]:
    """The manifest's entry of a file: its size and hash."""
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}


def listed(folder: Path) -> set[str]:
    """The names in a folder's manifest that lie inside the folder; none if it cannot be read."""
    try:
        names = read_json(folder / MANIFEST).get("files")
    except RegardError:
        return set()
    return {name for name in names if is_inside(name)} if isinstance(names, dict) else set()


def is_inside(name: str) -> bool:
    """Whether a manifest may list this name: normalized, inside the folder, without half surrogate pairs."""
    pure = PurePosixPath(name)
    plain = pure.as_posix() == name and not any(sign in name for sign in "\\\0") and not has_half(name)
    return plain and name != "." and not pure.is_absolute() and ".." not in pure.parts


def _check(folder: Path, name: str, entry: dict[str, Any], known: dict[tuple[int, ...], str]) -> str:
    """Check a file against its entry; returns its SHA-256. ``known`` holds those of files read under other names."""
    path = folder / name
    if not os.path.lexists(path):
        raise RegardError(f"{path}: missing, but {MANIFEST} lists it")
    with open_regular(path, folder) as file:
        state = os.fstat(file.fileno())
        if state.st_size != entry["bytes"]:
            raise RegardError(f"{path}: damaged: {state.st_size} bytes, the manifest says {entry['bytes']!r:.40}")
        if _is_hole(file.fileno(), state):
            raise RegardError(f"{path}: damaged: of its {state.st_size:,} bytes nearly none are on the disk")
        same = (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns)
        try:
            found = known.get(same) or hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise RegardError(f"{path}: cannot be read: {error.strerror or error}") from error
        known[same] = found
    if found != entry["sha256"]:
        raise RegardError(f"{path}: damaged: its SHA-256 is not the one in {MANIFEST}")
    return found


def _is_hole(handle: int, state: os.stat_result) -> bool:
    """Whether nearly all of a large file is a hole, which needs no space on the disk and hours to read.

    A compressing file system also needs little space, but reports no hole.
    """
    held = getattr(state, "st_blocks", None)
    if held is None or state.st_size < 1 << 30 or 512 * held > state.st_size // 16:
        return False
    try:
        return os.lseek(handle, 0, os.SEEK_HOLE) < state.st_size
    except OSError:
        return False
    finally:
        os.lseek(handle, 0, os.SEEK_SET)
