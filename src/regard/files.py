"""Writes files that survive a kill, a full disk and a power cut: the write protocol and its named points.

A folder is written as: temporary folder → files → fsync of each → manifest with hashes, synced last → fsync of the
folder → rename → fsync of the parent. So a reader finds the old folder or the new one, never neither, never a mixture.
An existing folder (a run directory that gets new weights) cannot be replaced by one rename, because it holds other
files too. There the rename makes ``FOLDER/.commit``, complete and verified, from which the files are put in place
one by one. Until the last one is, readers read ``.commit`` (see ``current``); the next writer completes what a killed
one left.

This file does not import PyTorch.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from safetensors import SafetensorError

from regard.errors import RegardError
from regard.manifest import MANIFEST, entry_of, listed, verify
from regard.regular import lies_in

STOP_AT = "REGARD_STOP_AT"
PREVIOUS = ".previous"  # in a run directory: the earlier run, until the new one has a checkpoint
MOVING = f"{PREVIOUS}.moving"  # the same while its entries are moved (training/previous.py)
_COMMIT = ".commit"
_PARTIAL = ".partial"  # ending of what is being written or deleted: `.NAME.partial`

_passed: dict[str, int] = {}


def point(name: str) -> None:
    """A named point at which a test may kill this process, by the variable ``REGARD_STOP_AT``.

    ``REGARD_STOP_AT=save:manifest`` kills at the first pass, ``save:manifest#3`` at the third.
    """
    wanted, _, time = os.environ.get(STOP_AT, "").partition("#")
    if wanted != name:
        return
    _passed[name] = _passed.get(name, 0) + 1
    if _passed[name] == int(time or 1):
        os.kill(os.getpid(), signal.SIGKILL)  # no handler, no flush, no atexit


def write_folder(target: Path, writer: Callable[[Path], None], *, name: str = "save") -> None:
    """Write a folder by the protocol above: ``writer`` fills an empty folder.

    ``name`` begins the names of the points: ``save:begin``, ``save:written``, ``save:synced``, ``save:manifest``,
    ``save:renamed``, ``save:placed`` (only into an existing folder) and ``save:end``. A writer uses ``writing`` (or
    ``write``) for each large file, so that an error can name it. If anything fails, the earlier files are unchanged and
    the temporary folder is removed.
    """
    target = Path(target)
    replacing = target.is_dir()
    temporary = target / _PARTIAL if replacing else _partial(target)
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        if replacing:
            finish(target)
        discard(temporary)
        try:
            temporary.mkdir()
            point(f"{name}:begin")
            writer(temporary)
            point(f"{name}:written")
            written = sorted(path for path in temporary.rglob("*") if path.is_file())
            for path in written:
                sync(path)
            point(f"{name}:synced")
            entries = {path.relative_to(temporary).as_posix(): entry_of(path) for path in written}
            text = json.dumps({"format_version": 1, "files": entries}, indent=1)
            write(temporary / MANIFEST, text.encode() + b"\n")
            for folder in sorted({path.parent for path in written} | {temporary}):
                sync(folder)
            point(f"{name}:manifest")
            os.rename(temporary, target / _COMMIT if replacing else target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        point(f"{name}:renamed")
        sync(target if replacing else target.parent)
        if replacing:
            finish(target, name)
    point(f"{name}:end")


def finish(folder: Path, name: str = "finish") -> None:
    """Move the files of ``.commit`` into place, if a writer left one."""
    commit = current(folder)
    if commit == folder:
        return
    # A .commit may be made by a stranger: its files must be whole and lie in the folder.
    new = sorted(Path(name) for name in (*verify(commit), MANIFEST))
    for relative in new:
        if not lies_in((folder / relative).parent, folder):
            raise RegardError(f"{folder / relative}: a link out of its folder stands in its way")
    for stale in listed(folder) - {path.as_posix() for path in new}:
        if lies_in((folder / stale).parent, folder):  # a manifest must not delete files elsewhere
            (folder / stale).unlink(missing_ok=True)
    for relative in new:
        path, place = commit / relative, folder / relative
        place.parent.mkdir(parents=True, exist_ok=True)
        linked = _partial(place)
        discard(linked)
        try:
            os.link(path, linked)  # no second copy, if the file system has hard links
        except OSError:
            shutil.copyfile(path, linked)
            sync(linked)
        os.replace(linked, place)
        point(f"{name}:placed")
    sync(folder)
    os.rename(commit, folder / _PARTIAL)  # one step, so that a half-deleted `.commit` is never read
    sync(folder)
    discard(folder / _PARTIAL)


def write_atomic(path: Path, data: bytes) -> None:
    """Replace one file: temporary file → fsync → rename → fsync of the folder. Mode and owner stay."""
    path = Path(path)
    temporary = _partial(path)
    with writing(path, len(data)):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.unlink(missing_ok=True)
            if path.exists():
                temporary.touch(0o600)  # private until it has the old file's mode
            write(temporary, data)
            _keep_rights(path, temporary)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync(path.parent)


def _keep_rights(path: Path, new: Path) -> None:
    """Give ``new`` the owner and mode of the file that it will replace, if there is one."""
    if not path.exists():
        return
    if hasattr(os, "chown"):
        with contextlib.suppress(OSError):  # only root may change the owner
            os.chown(new, path.stat().st_uid, path.stat().st_gid)
    shutil.copymode(path, new)


def write(path: Path, data: bytes) -> None:
    """Write and sync one file. Not atomic: for use inside a temporary folder."""
    with writing(path, len(data)), open(path, "wb") as file:
        file.write(data)
        file.flush()
        _flush(file.fileno())


@contextlib.contextmanager
def writing(path: Path, needed: int = 0) -> Iterator[None]:
    """Turn a failure to write into one line with the file's name and, if known, the ``needed`` bytes."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        _refuse(Path(path), needed, error)


def remove_folder(folder: Path, *, name: str = "rotate") -> None:
    """Delete a folder so that a kill leaves it whole or gone: rename, then empty it (points: ``rotate:…``)."""
    if folder.is_symlink():  # the linked folder stays
        folder.unlink()
        return
    point(f"{name}:begin")
    doomed = _partial(folder)
    discard(doomed)
    os.rename(folder, doomed)
    sync(folder.parent)
    point(f"{name}:renamed")
    for path in sorted(doomed.iterdir()):
        discard(path)
        point(f"{name}:file")
    doomed.rmdir()
    point(f"{name}:end")


def sweep(folder: Path) -> list[Path]:
    """Remove the partial files of killed writers in ``folder`` (not below). No other process may be writing."""
    if not folder.is_dir():
        return []
    left = [path for path in sorted(folder.iterdir()) if path.name.startswith(".") and path.name.endswith(_PARTIAL)]
    for path in left:
        discard(path)
    return left


@contextlib.contextmanager
def locked(path: Path, message: str = "") -> Iterator[None]:
    """Hold an exclusive lock on the file ``path`` inside; the kernel releases it when the process dies.

    Waits for the lock, or with a ``message`` raises it at once. Without ``fcntl`` (Windows) there is no lock.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (fcntl.LOCK_NB if message else 0))
        except BlockingIOError as error:
            raise RegardError(message) from error
        yield
    finally:
        os.close(handle)


def current(folder: Path) -> Path:
    """The folder to read: ``folder`` itself, or the complete ``.commit`` that a killed writer left in it."""
    commit = Path(folder) / _COMMIT
    return commit if commit.is_dir() and not commit.is_symlink() else Path(folder)


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}{_PARTIAL}")


def discard(path: Path) -> None:
    """Remove a file, a link, or a folder with its content, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """fsync a file, or the entries of a folder."""
    if path.is_dir() and os.name == "nt":
        return  # Windows cannot open a folder; its renames are journaled
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        _flush(handle)
    finally:
        os.close(handle)


def _flush(handle: int) -> None:
    try:
        import fcntl

        full = getattr(fcntl, "F_FULLFSYNC", None)  # macOS: fsync alone leaves the data in the drive's cache
    except ImportError:
        full = None
    if full is not None:
        with contextlib.suppress(OSError):
            fcntl.fcntl(handle, full)
            return
    os.fsync(handle)


def _refuse(path: Path, needed: int, error: Exception) -> NoReturn:
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "os error 28" in str(error)
    reason = "no space left on the disk" if full else (getattr(error, "strerror", None) or str(error))
    if isinstance(error, OSError) and error.filename and not needed:
        path = Path(os.fsdecode(error.filename)) if isinstance(error.filename, (str, bytes)) else path
    path = _final(path)
    sizes = [f"{needed:,} bytes needed"] if needed else []
    parent = next((folder for folder in path.parents if folder.is_dir()), None)
    if full and parent is not None:
        sizes.append(f"{shutil.disk_usage(parent).free:,} free")
    detail = f" ({', '.join(sizes)})" if sizes else ""
    advice = "; free some space and try again, what was there before is untouched" if full else ""
    raise RegardError(f"{path}: cannot be written: {reason}{detail}{advice}") from error


def _final(path: Path) -> Path:
    """The final name of a partial file: `step-10/x` for `.step-10.partial/x`."""
    inside = [part for part in path.parts if part != _PARTIAL]
    return Path(*(part[1 : -len(_PARTIAL)] if part.endswith(_PARTIAL) else part for part in inside))
