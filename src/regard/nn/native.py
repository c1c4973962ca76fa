"""The loops of native.c, compiled once for this machine where there is a C compiler, and called on tensors.

Without a compiler everything goes by PyTorch's operators. The library lies in the user's cache folder.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import math
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from regard.nn.attention import Core
from regard.nn.kernels import additive_mask
from regard.nn.layout import Layout

P = ParamSpec("P")
T = TypeVar("T")

SOURCE = Path(__file__).with_name("native.c")
# What adds up in another order says so in the source: all else is rounded as it is written, and the same everywhere.
FLAGS = (
    "-O3", "-march=native", "-std=gnu11", "-fPIC", "-shared", "-fno-math-errno", "-fno-trapping-math",
    "-fopenmp-simd",
)  # fmt: skip
FEW = 32  # queries of a sentence up to which one by one is faster than by products
LANES = 16  # numbers that native.c takes at a time
PATIENCE = 60  # seconds that a compiler is given


@functools.cache
def library() -> Native | None:
    """The compiled loops; None where there is no compiler, or not on Linux, where decoding forks a process a core."""
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang"))), None)
    if compiler is None or sys.platform != "linux":
        return None
    try:
        return Native(ctypes.CDLL(str(_compiled(compiler))))
    except (OSError, subprocess.SubprocessError):
        return None


def _compiled(compiler: str) -> Path:
    """The library's file, made unless it is there already."""
    processor = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith(("flags", "Feat"))]
    made_of = [SOURCE.read_text(), *FLAGS, compiler, platform.machine(), *processor[:1]]
    name = hashlib.sha256("\n".join(made_of).encode()).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "regard"
    path = folder / f"native-{name}.so"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as place:
            new = Path(place, "native.so")
            command = [compiler, *FLAGS, str(SOURCE), "-o", str(new), "-lm"]
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


class Native:
    """One method for each loop; tensors are fp32, on the CPU, and need no gradient."""

    def __init__(self, loops: Any) -> None:
        pointer, size, number = ctypes.c_void_p, ctypes.c_long, ctypes.c_float
        self._quantize, self._rescale, self._sums = loops.quantize_rows, loops.rescale_rows, loops.log_sum_exp_of_rows
        self._few = loops.multiply_few
        self._normalize, self._attend = loops.normalize_rows, loops.attend
        self._quantize.argtypes = (pointer, size, size, number, pointer, pointer)
        self._few.argtypes = (pointer, size, size, number, pointer, size, pointer, pointer, pointer, pointer, pointer)
        self._rescale.argtypes = (pointer, size, size, pointer, pointer)
        self._sums.argtypes = (pointer, size, size, pointer)
        self._normalize.argtypes = (pointer, size, size, pointer, pointer, number, pointer)
        self._attend.argtypes = (
            *(pointer, size, size, size) * 4, ctypes.c_int, *(size,) * 6, number, pointer
        )  # fmt: skip
        for loop in (self._quantize, self._few, self._rescale, self._sums, self._normalize):
            loop.restype = None

    @_seen
    def quantized(self, rows: Tensor, least: float) -> tuple[Tensor, Tensor]:
        """[R, K] → bytes [R, K], 128 standing for 0, and the step of each row [R], at least ``least`` / 127."""
        rows = rows.contiguous()
        cut, steps = torch.empty_like(rows, dtype=torch.uint8), rows.new_empty(rows.shape[0])
        self._quantize(rows.data_ptr(), *rows.shape, least, cut.data_ptr(), steps.data_ptr())
        return cut, steps

    @_seen
    def product(self, rows: Tensor, least: float, weight: Tensor, sums: Tensor, steps: Tensor, bias: Tensor) -> Tensor:
        """[R, K] → [R, N], all of ``Int8Linear`` at once: weight [N, K] in bytes, whose rows add up to ``sums`` [N]."""
        rows, (outputs, width) = rows.contiguous(), weight.shape
        out, cut = rows.new_empty(rows.shape[0], outputs), rows.new_empty(width, dtype=torch.uint8)
        self._few(
            rows.data_ptr(), *rows.shape, least, weight.data_ptr(), outputs, sums.data_ptr(), steps.data_ptr(),
            bias.data_ptr(), cut.data_ptr(), out.data_ptr(),
        )  # fmt: skip
        return out

    @_seen
    def rescale(self, found: Tensor, steps: Tensor, bias: Tensor) -> Tensor:
        """found [R, N] · steps [R] + bias [N], in place."""
        self._rescale(found.data_ptr(), *found.shape, steps.data_ptr(), bias.data_ptr())
        return found

    @_seen
    def log_sum_exp(self, rows: Tensor) -> Tensor:
        """log Σ exp of each row of [R, V] → [R]."""
        rows = rows.contiguous()
        sums = rows.new_empty(rows.shape[0])
        self._sums(rows.data_ptr(), *rows.shape, sums.data_ptr())
        return sums

    @_seen
    def normalized(self, x: Tensor, norm: nn.LayerNorm) -> Tensor:
        """Layer norm of [*, D]."""
        x = x.contiguous()
        out, width = torch.empty_like(x), x.shape[-1]
        gain, bias = norm.weight.data_ptr(), norm.bias.data_ptr()
        self._normalize(x.data_ptr(), x.numel() // width, width, gain, bias, norm.eps, out.data_ptr())
        return out

    @_seen
    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
        """Equation (1): query [B, H, Q, K], key and value [B, G, S, K], a mask to add, broadcastable to [B, H, Q, S].

        K is a multiple of ``LANES``; keys and values are in fp32 or bf16.

        → [B, H, Q, K], whose heads lie together. A query that may attend to nothing gets zeros.
        """
        batch, heads, queries, width = query.shape
        groups, keys = key.shape[1:3]
        query, key, value = (x if x.stride(3) == 1 else x.contiguous() for x in (query, key, value))
        mixed = query.new_empty(batch, queries, heads, width)
        if mask is None:
            masked: tuple[int | None, ...] = (None, 0, 0, 0)
        else:
            mask = mask.expand(batch, heads, queries, keys)
            mask = mask if mask.stride(3) == 1 else mask.contiguous()
            masked = mask.data_ptr(), *mask.stride()[:3]
        done = self._attend(
            query.data_ptr(), *query.stride()[:3], key.data_ptr(), *key.stride()[:3], value.data_ptr(),
            *value.stride()[:3], *masked, key.dtype == torch.bfloat16, batch, heads, heads // groups, queries, keys,
            width, scale, mixed.data_ptr(),
        )  # fmt: skip
        if not done:
            raise MemoryError(f"no memory for the weights of {keys} keys")
        return mixed.transpose(1, 2)


class NativeNorm(nn.Module):
    """An ``nn.LayerNorm`` by ``Native.normalized``; for inference alone."""

    def __init__(self, norm: nn.LayerNorm, native: Native) -> None:
        super().__init__()
        self.norm, self.native = norm, native

    def forward(self, x: Tensor) -> Tensor:
        return self.native.normalized(x, self.norm)


class NativeCore(nn.Module):
    """A ``Core`` that gives few queries, as in a step or a short sentence, to ``Native.attend``; for inference."""

    def __init__(self, core: Core, native: Native) -> None:
        super().__init__()
        self.core, self.native = core, native

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        layout: Layout,
        *,
        bias: Tensor | None = None,
        scale: float | None = None,
    ) -> Tensor:
        """As ``Core``'s."""
        if query.shape[2] > FEW or query.shape[3] % LANES or query.dtype != torch.float32:
            key, value = key.to(query.dtype), value.to(query.dtype)
            mixed: Tensor = self.core(query, key, value, layout, bias=bias, scale=scale)
            return mixed
        mask = additive_mask(query, key, layout, bias)
        return self.native.attend(query, key, value, mask, 1 / math.sqrt(query.shape[3]) if scale is None else scale)
