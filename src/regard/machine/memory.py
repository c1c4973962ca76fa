"""The memory of this process: keep freed pages for the next batch, measure the peak.

The C library returns large freed blocks to the kernel. A training frees and allocates the same tensors at every update,
and each returned page is zeroed and faulted in again (measured: 1.6 times the time on small models).
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import platform
import sys
from collections.abc import Iterator

# <malloc.h> of glibc; the values are part of its ABI.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -2, -3, -4
_MEBIBYTE = 1 << 20


@functools.cache
def keep_memory() -> str:
    """Make the C library keep freed memory; returns "", or one line that says why it does not.

    oneDNN's cache of kernels, one for each shape, is reduced from 1,024: few batches share their shapes.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")  # oneDNN reads it with its first kernel
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version.restype = ctypes.c_char_p
        libc.gnu_get_libc_version()
        mallopt = libc.mallopt
    except (AttributeError, OSError, TypeError):
        return f"the C library of this {platform.system()} cannot be told to keep freed memory: steps may be slower"
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    # Some versions refuse a threshold above 32 MiB; M_MMAP_MAX = 0 allows no mapped blocks at all.
    done = mallopt(_M_MMAP_THRESHOLD, 32 * _MEBIBYTE) and mallopt(_M_MMAP_MAX, 0)
    # -1 switches trimming off. The heap grows by 64 MiB at a time.
    done = done and mallopt(_M_TRIM_THRESHOLD, -1) and mallopt(_M_TOP_PAD, 64 * _MEBIBYTE)
    return "" if done else "the C library refused to keep freed memory: steps may be slower"


@contextlib.contextmanager
def other_sizes() -> Iterator[None]:
    """Return free pages before and after work with blocks of other sizes, which the kept pages hardly fit."""
    give_back()
    try:
        yield
    finally:
        give_back()


def give_back() -> None:
    """Return the free pages of the C library's heap to the system, where it can."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def peak_memory() -> int:
    """The peak memory of this process in bytes; 0 if the system does not report it."""
    try:
        # getrusage starts at the peak of the forking process; this figure is of this process alone.
        with open("/proc/self/status", encoding="utf-8") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def page_faults() -> int:
    """The number of page faults of this process so far (minor ones)."""
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
