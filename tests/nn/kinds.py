"""The native kernels for the tests: as this processor compiles them, and as an older one would."""

from __future__ import annotations

import ctypes
import platform

import pytest
import torch

from regard.accel import native, processors, shared_library

KERNELS = native.library()
compiled = pytest.mark.skipif(KERNELS is None, reason="there is no C compiler here")


def with_avx2() -> native.Native | None:
    """What a processor with AVX2 and no more compiles."""
    if KERNELS is None or platform.machine() != "x86_64" or torch.backends.cpu.get_cpu_capability() == "DEFAULT":
        return None
    compiler = processors.compiler()
    path = None if compiler is None else shared_library.in_cache(compiler, processors.KINDS["x86_64-avx2"][0])
    return None if path is None else native.Native(ctypes.CDLL(str(path)))


PROCESSORS = {"as here": KERNELS, "AVX2": with_avx2()}
#: Parametrizes a test's ``kernels`` by the kinds of processor that can be had here.
on_processors = pytest.mark.parametrize(
    "kernels",
    [
        pytest.param(each, id=name, marks=pytest.mark.skipif(each is None, reason=f"cannot be compiled: {name}"))
        for name, each in PROCESSORS.items()
    ],
)
