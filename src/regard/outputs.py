"""The files that a user names for results: checked before anything is computed, written in one step at its end."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from regard.errors import RegardError
from regard.files import write_atomic


def check_output(path: Path | str, inputs: Iterable[Path | str] = ()) -> None:
    """Raise unless a file can be written at ``path``, and it is none of the ``inputs``, which must stay.

    What is there is not changed, and nothing stays behind. Folders that are missing are made when it is written.
    """
    path = Path(path)
    try:
        there = path.exists()  # of a link, what it leads to
        if path.is_dir():
            raise RegardError(f"{path}: is a folder; expected the name of a file to write")
        if there and not os.access(path, os.W_OK):
            raise RegardError(f"{path}: cannot be written: it is read-only")
        if any(there and os.path.samefile(path, name) for name in inputs if os.path.exists(name)):
            raise RegardError(f"{path}: is read as well; choose another file to write, or it would be lost")
        if _written_as_it_is(path):
            return
        _check_place(_replaced(path))
    except OSError as error:
        raise RegardError(f"{path}: cannot be written: {error.strerror or error}") from None


def check_output_folder(path: Path | str) -> None:
    """Raise unless a new folder can be made at ``path``, where nothing is yet."""
    path = Path(path)
    try:
        if path.exists() or path.is_symlink():
            raise RegardError(f"{path}: is there already; choose another place")
        _check_place(path)
    except OSError as error:
        raise RegardError(f"{path}: cannot be written: {error.strerror or error}") from None


def write_output(path: Path | str, data: bytes) -> None:
    """The whole file or what was there before; a device or a pipe is written as it is, and what a link leads to."""
    path = Path(path)
    if _written_as_it_is(path):
        try:
            with open(path, "ab") as file:
                file.write(data)
        except OSError as error:
            raise RegardError(f"{path}: cannot be written: {error.strerror or error}") from None
        return
    write_atomic(_replaced(path), data)


def _written_as_it_is(path: Path) -> bool:
    """Whether a path is a device, a pipe, or what our own standard output goes to, none of which a rename replaces."""
    own = str(path).startswith(("/dev/std", "/dev/fd/", "/proc/"))
    return path.exists() and not path.is_dir() and (own or not path.is_file())


def _replaced(path: Path) -> Path:
    """What a rename replaces: a link stays, and the file that it leads to is the new one."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def _check_place(path: Path) -> None:
    """OSError unless ``path`` can be made in its folder, or in the nearest that is there, in which that is made."""
    folder = path.parent
    while not os.path.lexists(folder):
        folder = folder.parent
    # A file like the one that is written before the rename: its name is as long (files.py).
    handle, name = tempfile.mkstemp(prefix=f".{path.name}", dir=folder)
    os.close(handle)
    os.unlink(name)
