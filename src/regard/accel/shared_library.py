"""Where the native kernels come from: the wheel, the user's cache folder, or compiled for this process alone.

A process must load only code that its own user compiled. So a file of the cache is loaded only if file and folder
belong to the user and nobody else may write to them.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import stat
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from regard.accel import processors
from regard.accel.structures import StructureMismatch

SOURCES = Path(__file__).with_name("c")
COMPILER_TIMEOUT = 60  # seconds

T = TypeVar("T")


def load(wrap: Callable[[Any], T]) -> T | None:
    """The library as ``wrap`` makes it of what was loaded; None where there is none, or not on Linux."""
    if sys.platform != "linux":
        return None
    packaged = _packaged()
    if packaged is not None and (found := _opened(packaged, wrap)) is not None:
        return found
    compiler = processors.compiler()
    if compiler is None:
        return None
    try:
        cached = in_cache(compiler)
        if cached is not None and (found := _opened(cached, wrap)) is not None:
            return found
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "native.so")
            compile_into(path, compiler)
            return _opened(path, wrap)
    except (OSError, subprocess.SubprocessError):
        return None


def is_there() -> bool:
    """Whether a library is there without being compiled first."""
    if sys.platform != "linux":
        return False
    compiler = processors.compiler()
    return _packaged() is not None or (compiler is not None and _ours(_path_of(compiler, processors.HERE)))


def in_cache(compiler: str, kind: tuple[str, ...] = processors.HERE) -> Path | None:
    """The cache's library for a kind of processor, compiled if missing; None where the cache is not ours alone."""
    path = _path_of(compiler, kind)
    if path is None:
        return None
    try:
        path.parent.parent.mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        if not path.exists():
            if not _ours_alone(path.parent):
                return None
            with tempfile.TemporaryDirectory(dir=path.parent) as folder:
                new = Path(folder, "native.so")
                compile_into(new, compiler, kind)
                new.chmod(0o600)
                new.replace(path)
    except OSError:
        return None  # no home, no room, or no right to write
    return path if _ours(path) else None


def compile_into(path: Path, compiler: str, kind: tuple[str, ...] = processors.HERE) -> None:
    """Compile the kernels; SubprocessError where the compiler fails."""
    command = processors.command(compiler, kind, str(SOURCES / "stack.c"), str(path))
    subprocess.run(command, check=True, capture_output=True, timeout=COMPILER_TIMEOUT)


def _opened(path: Path, wrap: Callable[[Any], T]) -> T | None:
    """The library of a file; None, with a warning, if it cannot be loaded or has other functions or structures."""
    try:
        return wrap(ctypes.CDLL(str(path)))
    except (OSError, AttributeError, StructureMismatch) as error:
        reason = "it lacks a function" if isinstance(error, AttributeError) else "it cannot be loaded"
        reason = str(error) if isinstance(error, StructureMismatch) else reason
        warnings.warn(f"{path}: not regard's native kernels: {reason}; delete it", stacklevel=1)
        return None


def _packaged() -> Path | None:
    """The library that the wheel holds for this processor."""
    here = set(_instruction_sets().split())
    fit = (name for name, (_, needed) in processors.KINDS.items() if here.issuperset(needed))
    paths = (SOURCES.with_name(processors.file_of(name)) for name in fit)
    return next((path for path in paths if path.exists()), None)


@functools.cache
def _instruction_sets() -> str:
    """The names that Linux has for the processor's instruction sets; "" without ``/proc``."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


@functools.cache
def _path_of(compiler: str, kind: tuple[str, ...]) -> Path | None:
    """The path of the library that a compiler makes of these sources for a kind of processor.

    None where this processor cannot be told from another one whose user shares the cache.
    """
    if not _instruction_sets():
        return None
    sources = [path.read_text(encoding="utf-8") for path in sorted(SOURCES.iterdir())]
    made_of = [*sources, *processors.FLAGS, *kind, compiler, platform.machine(), _instruction_sets()]
    name = hashlib.sha256("\n".join(made_of).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):  # the XDG specification ignores relative paths
        base = os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base, "regard", f"native-{name}.so") if os.path.isabs(base) else None


def _ours(path: Path | None) -> bool:
    """Whether a library is there that only this user can have put there."""
    return path is not None and _ours_alone(path.parent) and _ours_alone(path, stat.S_ISREG)


def _ours_alone(path: Path, kind: Callable[[int], bool] = stat.S_ISDIR) -> bool:
    try:
        found = path.lstat()
    except OSError:
        return False
    writable = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return kind(found.st_mode) and found.st_uid == os.geteuid() and not writable
