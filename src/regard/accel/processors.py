"""The kinds of processor for which the loops of c/ are compiled beforehand, into the wheel (hatch_build.py).

Nothing of regard or PyTorch is imported here: a build reads this file before they are installed.
"""

from __future__ import annotations

import os
import shutil

# What adds up in another order says so in the source: all else is rounded as it is written, and the same everywhere.
FLAGS = ("-O3", "-std=gnu11", "-fPIC", "-shared", "-fno-math-errno", "-fno-trapping-math", "-fopenmp-simd")
HERE = ("-march=native",)  # for the machine at hand

_AVX512 = ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx512_vnni")
_WITH_AVX512 = ("-march=x86-64-v4", "-mavx512vnni", "-mprefer-vector-width=512")
#: Name → what the compiler is told, and what Linux calls what the processor must have; the best first.
KINDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "x86_64-avx512-bf16": ((*_WITH_AVX512, "-mavx512bf16"), (*_AVX512, "avx512_bf16")),
    "x86_64-avx512": (_WITH_AVX512, _AVX512),
    "x86_64-avx2": (("-march=x86-64-v3",), ("avx2", "fma", "bmi1", "bmi2", "f16c", "movbe")),
}


def file_of(name: str) -> str:
    """How the library of a kind is called."""
    return f"native-{name}.so"


def compiler() -> str | None:
    """The C compiler, if there is one."""
    return next(filter(None, map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang"))), None)


def command(compiler: str, kind: tuple[str, ...], source: str, into: str) -> list[str]:
    """What compiles c/stack.c."""
    return [compiler, *FLAGS, *kind, source, "-o", into, "-lm"]
