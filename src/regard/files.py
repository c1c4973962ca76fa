"""Writes files that survive a kill, a full disk and a power cut: the write protocol and its named points.

A folder is written as: temporary folder → files → fsync of each → manifest with hashes, synced last → fsync of the
folder → rename → fsync of the parent. So a reader finds the old folder or the new one, never neither, never a mixture.
An existing folder (a run directory that gets new weights) cannot be replaced by one rename, because it holds other
files too. There the rename makes ``FOLDER/.commit``, complete and verified, from which the files are moved into place
one by one. Until the last one is, readers read ``.commit`` (see ``current``); the next writer completes what a killed
one left.

This file does not import PyTorch.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from safetensors import SafetensorError

from regard.errors import RegardError
from regard.regular import JSON_LIMIT, lies_in, open_regular, read_regular
from regard.surrogates import has_half

MANIFEST = "manifest.json"
STOP_AT = "REGARD_STOP_AT"
PREVIOUS = ".previous"  # in a run directory: the earlier run, until the new one has a checkpoint
MOVING = f"{PREVIOUS}.moving"  # the same while its entries are moved (training/previous.py)
FILES = 10_000  # that a manifest may list: far more than any folder here has
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


# --- writing --------------------------------------------------------------------------------------------------------


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
            entries = {path.relative_to(temporary).as_posix(): _entry(path) for path in written}
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
    for stale in _listed(folder) - {path.as_posix() for path in new}:
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


# --- reading --------------------------------------------------------------------------------------------------------


def current(folder: Path) -> Path:
    """The folder to read: ``folder`` itself, or the complete ``.commit`` that a killed writer left in it."""
    commit = Path(folder) / _COMMIT
    return commit if commit.is_dir() and not commit.is_symlink() else Path(folder)


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
        if not _inside(name) or not isinstance(entry, dict) or set(entry) != {"bytes", "sha256"}:
            raise RegardError(f"{path}: damaged at the entry {name!r}")
        hashes[name] = _check(folder, name, entry, known)
    for name in needed:
        if name not in hashes and os.path.lexists(folder / name):
            raise RegardError(
                f"{folder / name}: {MANIFEST} does not list it, so that it is unchecked: put back the {MANIFEST} that "
                "belongs to these files, or delete it to use them unchecked"
            )
    return hashes


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


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- details --------------------------------------------------------------------------------------------------------


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}{_PARTIAL}")


def discard(path: Path) -> None:
    """Remove a file, a link, or a folder with its content, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _listed(folder: Path) -> set[str]:
    """The names in a folder's manifest that lie inside the folder; none if it cannot be read."""
    try:
        names = read_json(folder / MANIFEST).get("files")
    except RegardError:
        return set()
    return {name for name in names if _inside(name)} if isinstance(names, dict) else set()


def _inside(name: str) -> bool:
    """Whether a manifest may list this name: normalized, inside the folder, without half surrogate pairs."""
    pure = PurePosixPath(name)
    plain = pure.as_posix() == name and not any(sign in name for sign in "\\\0") and not has_half(name)
    return plain and name != "." and not pure.is_absolute() and ".." not in pure.parts


def _entry(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}


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


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")


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
