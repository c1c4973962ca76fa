"""The compiled loops for the tests: as they are here, and as an older processor would have them."""

from __future__ import annotations

import ctypes
import platform

import pytest
import torch

from regard.accel import native, processors, shared_library

LOOPS = native.library()
compiled = pytest.mark.skipif(LOOPS is None, reason="there is no C compiler here")


def with_avx2() -> native.Native | None:
    """What a processor with AVX2 and no more compiles."""
    if LOOPS is None or platform.machine() != "x86_64" or torch.backends.cpu.get_cpu_capability() == "DEFAULT":
        return None
    compiler = processors.compiler()
    path = None if compiler is None else shared_library.in_cache(compiler, processors.KINDS["x86_64-avx2"][0])
    return None if path is None else native.Native(ctypes.CDLL(str(path)))


PROCESSORS = {"as here": LOOPS, "AVX2": with_avx2()}
#: A test's ``loops``, for each kind of processor that can be had.
on_processors = pytest.mark.parametrize(
    "loops",
    [
        pytest.param(each, id=name, marks=pytest.mark.skipif(each is None, reason=f"cannot be compiled: {name}"))
        for name, each in PROCESSORS.items()
    ],
)
