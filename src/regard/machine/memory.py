"""Keep freed memory, so that the next batch finds it mapped.

The C library returns large freed blocks to the kernel; a training frees and asks for the same tensors at every update,
and each page that comes back is zeroed and faulted in again (measured: 1.6 times the time on small models).
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
    """Tell the C library to keep what is freed; "" when it does, else one line that says why not.

    And oneDNN to keep fewer kernels than its 1,024, one for each shape: few batches have the shapes of another.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")  # read when its first kernel is made
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version.restype = ctypes.c_char_p
        libc.gnu_get_libc_version()
        mallopt = libc.mallopt
    except (AttributeError, OSError, TypeError):
        return f"the C library of this {platform.system()} cannot be told to keep freed memory: steps may be slower"
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    # A threshold above 32 MiB is refused by some versions; no mapped blocks at all is what is meant.
    done = mallopt(_M_MMAP_THRESHOLD, 32 * _MEBIBYTE) and mallopt(_M_MMAP_MAX, 0)
    # -1 switches trimming off; the heap grows by 64 MiB at a time.
    done = done and mallopt(_M_TRIM_THRESHOLD, -1) and mallopt(_M_TOP_PAD, 64 * _MEBIBYTE)
    return "" if done else "the C library refused to keep freed memory: steps may be slower"


@contextlib.contextmanager
def other_sizes() -> Iterator[None]:
    """Around work with blocks of other sizes, which the kept pages hardly fit: those that hold nothing go back."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
    try:
        yield
    finally:
        if trim is not None:
            trim(0)


def peak_memory() -> int:
    """Bytes of memory that this process has held at most; 0 where the system does not say."""
    try:
        # getrusage's figure starts at that of the process which forked this one; Linux has an honest one here.
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
    """Pages that the kernel has had to supply to this process so far."""
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
