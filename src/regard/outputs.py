"""Output files: checked before anything is computed, written in one step at the end."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from regard.errors import RegardError
from regard.files import write_atomic


def check_output(path: Path | str, inputs: Iterable[Path | str] = ()) -> None:
    """Raise unless a file can be written at ``path``, and ``path`` is none of the ``inputs``.

    The check changes nothing and leaves no file. Missing folders are made when the file is written.
    """
    path = Path(path)
    try:
        there = path.exists()  # follows links
        if path.is_dir():
            raise RegardError(f"{path}: is a folder; expected the name of a file to write")
        if there and not os.access(path, os.W_OK):
            raise RegardError(f"{path}: cannot be written: it is read-only")
        if any(there and os.path.samefile(path, name) for name in inputs if os.path.exists(name)):
            raise RegardError(f"{path}: is read as well; choose another file to write, or it would be lost")
        descriptor = _own_descriptor(path)
        if descriptor is not None:
            os.write(descriptor, b"")  # fails if it is open for reading only
        elif not _written_directly(path):
            _check_place(_replaced(path))
    except OSError as error:
        raise RegardError(f"{path}: cannot be written: {error.strerror or error}") from None


def check_output_folder(path: Path | str) -> None:
    """Raise unless a new folder can be made at ``path``."""
    path = Path(path)
    try:
        if path.exists() or path.is_symlink():
            raise RegardError(f"{path}: is there already; choose another place")
        _check_place(path)
    except OSError as error:
        raise RegardError(f"{path}: cannot be written: {error.strerror or error}") from None


def write_output(path: Path | str, data: bytes) -> None:
    """Replace the file at ``path`` in one step.

    Devices, pipes and open streams of this process are written directly; links are followed.
    """
    path = Path(path)
    descriptor = _own_descriptor(path)
    if descriptor is None and not _written_directly(path):
        write_atomic(_replaced(path), data)
        return
    try:
        if descriptor is not None:
            # A newly opened file would have its own offset, and later prints would overwrite the data.
            for stream in filter(None, (sys.stdout, sys.stderr)):
                stream.flush()
        with open(path, "ab") if descriptor is None else open(os.dup(descriptor), "wb") as file:
            file.write(data)
    except BrokenPipeError:
        raise  # handled as the end of this process's own output
    except OSError as error:
        raise RegardError(f"{path}: cannot be written: {error.strerror or error}") from None


def _own_descriptor(path: Path) -> int | None:
    """The open descriptor of this process that ``path`` means: ``/dev/fd/3``, or the file of stdout or stderr."""
    place = path
    for _ in range(40):  # Linux follows as many links
        if place.name.isdecimal() and os.path.realpath(place.parent) in (f"/proc/{os.getpid()}/fd", "/dev/fd"):
            return int(place.name)
        if not place.is_symlink():
            break
        place = place.parent / place.readlink()
    with contextlib.suppress(OSError):  # no such file
        there = path.stat()
        for number in (1, 2):
            with contextlib.suppress(OSError):  # a stream may be closed
                if os.path.samestat(there, os.fstat(number)):
                    return number
    return None


def _written_directly(path: Path) -> bool:
    """Whether a path is a device, a pipe or a process's open file, which a rename would not replace."""
    return path.exists() and not path.is_dir() and (str(path).startswith("/proc/") or not path.is_file())


def _replaced(path: Path) -> Path:
    """The file to replace: for a link the file that it leads to, so that the link stays."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def _check_place(path: Path) -> None:
    """Raise OSError unless a file can be made in the folder of ``path``, or in its nearest existing parent."""
    folder = path.parent
    while not os.path.lexists(folder):
        folder = folder.parent
    # Try a name as long as that of the temporary file (files.py).
    handle, name = tempfile.mkstemp(prefix=f".{path.name}", dir=folder)
    os.close(handle)
    os.unlink(name)
