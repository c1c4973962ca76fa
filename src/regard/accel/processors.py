"""The kinds of processor for which hatch_build.py compiles the native kernels of c/ into the wheel.

This file imports nothing of regard or PyTorch: a build runs it before they are installed.
"""

from __future__ import annotations

import os
import shutil

# No flag lets the compiler change the order of sums: where that may change, the source says so (``omp simd``). So every
# processor of one kind rounds alike.
FLAGS = ("-O3", "-std=gnu11", "-fPIC", "-shared", "-fno-math-errno", "-fno-trapping-math", "-fopenmp-simd")
HERE = ("-march=native",)  # for the processor that compiles

_AVX512 = ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx512_vnni")
_WITH_AVX512 = ("-march=x86-64-v4", "-mavx512vnni", "-mprefer-vector-width=512")
#: Name → the compiler's flags, and the instruction sets that the processor must have, by Linux's names; fastest first.
KINDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "x86_64-avx512-bf16": ((*_WITH_AVX512, "-mavx512bf16"), (*_AVX512, "avx512_bf16")),
    "x86_64-avx512": (_WITH_AVX512, _AVX512),
    "x86_64-avx2": (("-march=x86-64-v3",), ("avx2", "fma", "bmi1", "bmi2", "f16c", "movbe")),
}


def file_of(name: str) -> str:
    """The file name of the library for a kind."""
    return f"native-{name}.so"


def compiler() -> str | None:
    """The path of the C compiler; None: there is none."""
    return next(filter(None, map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang"))), None)


def command(compiler: str, kind: tuple[str, ...], source: str, into: str) -> list[str]:
    """The command line that compiles ``source``, c/stack.c, into a shared library."""
    return [compiler, *FLAGS, *kind, source, "-o", into, "-lm"]
