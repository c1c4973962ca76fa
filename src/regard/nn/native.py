"""The loops of c/, called on tensors: as the wheel holds them for such a processor, or compiled once for this machine.

What is compiled here lies in the user's cache folder. Without either everything goes by PyTorch's operators.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from regard.nn import processors

P = ParamSpec("P")
T = TypeVar("T")

SOURCES = Path(__file__).with_name("c")
LANES = 16  # numbers that the loops take at a time
PATIENCE = 60  # seconds that a compiler is given
KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2}  # of weights, as in products.h
INPUTS_OF_UNIT = (1, 2, 4)  # that share 4 bytes, by kind
PARTS = ("products with weights", "attention", "norms")  # of a stack's time, as in stack.c

pointer, size, number = ctypes.c_void_p, ctypes.c_long, ctypes.c_float


@functools.cache
def library() -> Native | None:
    """The compiled loops; None where there are none, or not on Linux, where decoding forks a process a core."""
    if sys.platform != "linux":
        return None
    try:
        path = _packaged() or _compiled()
        return None if path is None else Native(ctypes.CDLL(str(path)))
    except (OSError, subprocess.SubprocessError):
        return None


def multiplying(dtype: torch.dtype) -> Native | None:
    """The loops, where they multiply with weights of this type."""
    loops = library()
    return loops if loops and loops.multiplies.get(dtype) else None


@functools.cache
def _abilities() -> str:
    """The names of what the processor can, in Linux's words."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def _packaged() -> Path | None:
    """The library that the wheel holds for such a processor."""
    here = set(_abilities().split())
    fit = (name for name, (_, needed) in processors.KINDS.items() if here.issuperset(needed))
    paths = (SOURCES.with_name(processors.file_of(name)) for name in fit)
    return next((path for path in paths if path.exists()), None)


def at_hand() -> bool:
    """Whether there is a ``library`` that needs not be compiled first."""
    if sys.platform != "linux":
        return False
    compiler = processors.compiler()
    there = _packaged() is not None or (compiler is not None and _place_of(compiler, processors.HERE).exists())
    return there and library() is not None


@functools.cache
def _place_of(compiler: str, kind: tuple[str, ...]) -> Path:
    """Where the library lies that a compiler makes for a kind of processor; another source has another place."""
    sources = [path.read_text() for path in sorted(SOURCES.iterdir())]
    made_of = [*sources, *processors.FLAGS, *kind, compiler, platform.machine(), _abilities()]
    name = hashlib.sha256("\n".join(made_of).encode()).hexdigest()[:16]
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "regard", f"native-{name}.so")


def _compiled(kind: tuple[str, ...] = processors.HERE) -> Path | None:
    """The library compiled for a kind of processor, unless it was already; None where there is no compiler."""
    compiler = processors.compiler()
    if compiler is None:
        return None
    path = _place_of(compiler, kind)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as place:
            new = Path(place, "native.so")
            command = processors.command(compiler, kind, str(SOURCES / "stack.c"), str(new))
            subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE)
            new.replace(path)
    return path


def _seen(call: Callable[P, T]) -> Callable[P, T]:
    """The call, shown to PyTorch's profiler as the operators are."""

    @functools.wraps(call)
    def shown(*args: P.args, **kwargs: P.kwargs) -> T:
        if not torch._C._autograd._profiler_enabled():
            return call(*args, **kwargs)
        with torch.profiler.record_function(f"native::{call.__name__}"):
            return call(*args, **kwargs)

    return shown


class Linear(ctypes.Structure):
    """``struct linear`` of products.h; zeros: there is none."""

    _fields_ = (
        ("inputs", size), ("outputs", size), ("kind", ctypes.c_int),
        ("panels", pointer), ("bias", pointer), ("steps", pointer), ("offsets", pointer),
    )  # fmt: skip


class Kept(ctypes.Structure):
    """``struct kept`` of attention.h: keys or values [B, G, S, K] and their strides in numbers."""

    _fields_ = (("at", pointer), ("sentence", size), ("head", size), ("token", size))

    @classmethod
    def of(cls, x: Tensor) -> Kept:
        assert x.stride(3) == 1
        return cls(x.data_ptr(), *x.stride()[:3])


class Seen(ctypes.Structure):
    """``struct seen`` of stack.c: what is attended to in one layer."""

    _fields_ = (("keys", Kept), ("values", Kept))


class Native:
    """One method for each loop; tensors are fp32, on the CPU, and need no gradient."""

    def __init__(self, loops: Any) -> None:
        self._linear, self._stack, self._spent = loops.run_linear, loops.run, loops.seconds_spent
        self._project, self._rank, self._rank_all = loops.project, loops.rank, loops.rank_all
        self._linear.argtypes = (pointer, pointer, size, pointer)
        self._stack.argtypes = (pointer, pointer)
        self._project.argtypes = (pointer, pointer, size, size, pointer, Seen, ctypes.c_int, size, size)
        found = (size, size, pointer, size, pointer, pointer, pointer)
        self._rank.argtypes, self._rank.restype = (pointer, size, size, *found), None
        self._rank_all.argtypes = (pointer, pointer, size, *found)
        self._spent.restype = ctypes.POINTER(ctypes.c_double * len(PARTS))
        self.panel: int = loops.panel()
        self.weight_steps: int = loops.weight_steps()  # of weights in int8, on either side of 0
        self.multiplies = {dtype: bool(loops.multiplies(kind)) for dtype, kind in KINDS.items()}

    @_seen
    def product(self, x: Tensor, matrix: Matrix) -> Tensor:
        """x [*, in] → [*, out]"""
        x = x.contiguous()
        out = x.new_empty(*x.shape[:-1], matrix.outputs)
        rows = x.numel() // x.shape[-1]
        if not self._linear(ctypes.byref(matrix.linear), x.data_ptr(), rows, out.data_ptr()):
            raise MemoryError("no memory for the rows of a product")
        return out

    @_seen
    def stack(self, stack: ctypes.Structure, call: ctypes.Structure) -> None:
        """All layers of a stack (compiled.py)."""
        if not self._stack(ctypes.byref(stack), ctypes.byref(call)):
            raise MemoryError("no memory for what lies between the layers")

    @_seen
    def project(self, matrix: Matrix, memory: Tensor, lengths: Tensor, keys: Tensor, values: Tensor) -> None:
        """Keys and values [B, G, S, K] of a memory [B, S, D], written up to the ``lengths`` [B]."""
        memory, lengths = memory.contiguous(), lengths.to("cpu", torch.int64)
        batch, groups, tokens, width = keys.shape
        done = self._project(
            ctypes.byref(matrix.linear), memory.data_ptr(), batch, tokens, lengths.data_ptr(),
            Seen(Kept.of(keys), Kept.of(values)), keys.dtype == torch.bfloat16, groups, width,
        )  # fmt: skip
        if not done:
            raise MemoryError("no memory for keys and values")

    @_seen
    def ranked(self, scores: Tensor, k: int, end: int, hidden: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities and tokens [R, k] of the best of scores [R, V], best first, and those of ``end`` [R].

        The scores may be overwritten. Of equal ones the first is first; ``hidden`` [n] are not among them.
        """
        scores = scores.contiguous()
        found, places = _best(scores, k, hidden)
        self._rank(scores.data_ptr(), *scores.shape, k, end, *places)
        return found

    @_seen
    def best(self, table: Matrix, x: Tensor, k: int, end: int, hidden: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """``ranked`` of the scores of x [R, D] by an output table."""
        x = x.contiguous()
        found, places = _best(x, k, hidden)
        if not self._rank_all(ctypes.byref(table.linear), x.data_ptr(), len(x), k, end, *places):
            raise MemoryError("no memory for the scores of a few rows")
        return found

    def spent(self) -> dict[str, float]:
        """The seconds that ``stack`` has taken in this process, by part."""
        return dict(zip(PARTS, self._spent().contents, strict=True))


def _best(rows: Tensor, k: int, hidden: Tensor | None) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[int | None, ...]]:
    """Room for what ``Native.ranked`` finds, and its last arguments."""
    values, ends = rows.new_empty(len(rows), k), rows.new_empty(len(rows))
    tokens = torch.empty_like(values, dtype=torch.int64)
    not_these = (None, 0) if hidden is None else (hidden.data_ptr(), len(hidden))
    return (values, tokens, ends), (*not_these, values.data_ptr(), tokens.data_ptr(), ends.data_ptr())


class Matrix:
    """The weights of a linear layer, laid out once for ``Native.product``; they never change."""

    def __init__(self, native: Native, weight: Tensor, bias: Tensor | None, steps: Tensor | None = None) -> None:
        """weight [out, in] in fp32, bf16 or int8, bias [out], ``steps`` [out] of weights in int8."""
        self.native, kind = native, KINDS[weight.dtype]
        self.outputs, inputs = weight.shape
        panels = -(-self.outputs // native.panel)
        unit = INPUTS_OF_UNIT[kind]
        units = -(-inputs // unit)

        def padded(x: Tensor | None, dtype: torch.dtype) -> Tensor:
            wide = torch.zeros(panels * native.panel, dtype=dtype)
            if x is not None:
                wide[: self.outputs] = x
            return wide

        whole = weight.new_zeros(panels * native.panel, units * unit)
        whole[: self.outputs, :inputs] = weight.detach()
        laid_out = whole.view(panels, native.panel, units, unit).transpose(1, 2).contiguous()
        offsets = 128 * weight.sum(1, dtype=torch.int32) if steps is not None else None
        self._tensors = (
            laid_out, padded(bias, torch.float32), padded(steps, torch.float32), padded(offsets, torch.int32),
        )  # fmt: skip
        self.linear = Linear(inputs, self.outputs, kind, *(x.data_ptr() for x in self._tensors))

    def __deepcopy__(self, memo: object) -> Matrix:
        return self

    def __call__(self, x: Tensor) -> Tensor:
        """x [*, in] → [*, out]"""
        return self.native.product(x, self)
