"""The loops of c/, called on tensors. Where there is no library of them everything goes by PyTorch's operators."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from regard.accel import shared_library

P = ParamSpec("P")
T = TypeVar("T")

LANES = 16  # numbers that the loops take at a time
FEW_THREADS = 2  # of PyTorch's, with which operators take as long in training as the loops on one core
KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2}  # of weights, as in products.h
INPUTS_OF_UNIT = (1, 2, 4)  # that share 4 bytes, by kind
PARTS = ("products with weights", "attention", "norms")  # of a stack's time, as in stack.c

pointer, size, number = ctypes.c_void_p, ctypes.c_long, ctypes.c_float


@functools.cache
def library() -> Native | None:
    """The compiled loops; None where there are none."""
    return shared_library.load(Native)


def at_hand() -> bool:
    """Whether there is a ``library`` that needs not be compiled first."""
    loaded = library.cache_info().currsize > 0
    return (loaded or shared_library.is_there()) and library() is not None


def multiplying(dtype: torch.dtype) -> Native | None:
    """The loops, where they multiply with weights of this type."""
    loops = library()
    return loops if loops and loops.multiplies.get(dtype) else None


def for_training(x: Tensor, dtype: torch.dtype | None = None) -> Native | None:
    """The loops, where they know numbers of the type of x or ``dtype``, and on one core outrun PyTorch's operators."""
    known = x.device.type == "cpu" and (dtype or x.dtype) in (torch.float32, torch.bfloat16)
    return library() if known and torch.get_num_threads() <= FEW_THREADS else None


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


class Rows(ctypes.Structure):
    """``struct table`` of varlen.h: the numbers of some heads, row by row."""

    _fields_ = (("at", pointer), ("step", size))

    @classmethod
    def of(cls, x: Tensor) -> Rows:
        """x [R, heads · K], which may be some columns of a wider table."""
        assert x.stride(1) == 1
        return cls(x.data_ptr(), x.stride(0))


class VarLen(ctypes.Structure):
    """``struct varlen`` of varlen.h: which rows make a sentence, and how they attend."""

    _fields_ = (
        ("queries", pointer), ("keys", pointer), *((name, size) for name in ("sentences", "heads", "groups", "width")),
        ("causal", ctypes.c_int), ("halves", ctypes.c_int), ("scale", number),
    )  # fmt: skip


class Dropping(ctypes.Structure):
    """``struct dropout`` of rows.h."""

    _fields_ = (("bytes", pointer), ("least", ctypes.c_int), ("scale", number))


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
        self._attend, self._attend_back = loops.attend_varlen, loops.attend_varlen_back
        self._attend.argtypes = (pointer, Rows, Rows, Rows, Rows, pointer)
        self._attend_back.argtypes = (pointer, Rows, Rows, Rows, pointer, Rows, Rows, Rows, Rows)
        self._soften, self._add_halves = loops.soften, loops.add_halves
        self._soften.argtypes = (pointer, size, size, pointer, number, ctypes.c_int, pointer)
        self._add_halves.argtypes, self._add_halves.restype = (pointer, pointer, size), None
        self._drop, self._drop_back = loops.drop_and_add, loops.drop_back
        self._drop.argtypes = (Dropping, pointer, ctypes.c_int, pointer, size, pointer)
        self._drop_back.argtypes = (Dropping, pointer, size, pointer, ctypes.c_int)
        self._drop.restype = self._drop_back.restype = None
        self._multiply_once = loops.multiply_once
        self._multiply_once.argtypes = (pointer, size, pointer, ctypes.c_int, size, size, pointer, pointer)
        self._sum_columns = loops.sum_columns
        self._sum_columns.argtypes, self._sum_columns.restype = (pointer, size, size, ctypes.c_int, pointer), None
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

    @_seen
    def attention(self, varlen: VarLen, *tables: Tensor) -> Tensor:
        """Query, key, value and what is mixed, each [R, heads · K] → the logarithms of the queries' sums [R, H]."""
        sums = torch.empty(len(tables[0]), varlen.heads)
        if not self._attend(ctypes.byref(varlen), *map(Rows.of, tables), sums.data_ptr()):
            raise MemoryError("no memory for the heads of a sentence")
        return sums

    @_seen
    def attention_back(
        self, varlen: VarLen, there: Sequence[Tensor], sums: Tensor, gradient: Tensor, back: Sequence[Tensor]
    ) -> None:
        """Query, key and value, ``there``, and the gradient of what was mixed → their gradients, written ``back``."""
        tables = *map(Rows.of, there), sums.data_ptr(), Rows.of(gradient), *map(Rows.of, back)
        if not self._attend_back(ctypes.byref(varlen), *tables):
            raise MemoryError("no memory for the heads of a sentence")

    @_seen
    def soften(self, logits: Tensor, labels: Tensor, rest: float) -> tuple[float, float]:
        """Logits [R, V] in fp32 or bf16 → in place softmax - ``rest`` · one-hot(labels [R]).

        Returned are the sums of -log p(label) and of the labels' logits.
        """
        found = (ctypes.c_double * 2)()
        halves = logits.dtype == torch.bfloat16
        done = self._soften(logits.data_ptr(), *logits.shape, labels.data_ptr(), rest, halves, found)
        if done < 0:
            raise IndexError(f"a label is not among the {logits.shape[1]} of the output table")
        if not done:
            raise MemoryError("no memory for a row of logits")
        return found[0], found[1]

    @_seen
    def product_once(self, x: Tensor, weight: Tensor, bias: Tensor | None, turned: bool = False) -> Tensor:
        """x [R, in] and weight [out, in], or if ``turned`` [in, out], which will not be the same again → [R, out]."""
        x, weight = x.contiguous(), weight.contiguous()
        outputs, inputs = weight.shape[::-1] if turned else weight.shape
        out = x.new_empty(len(x), outputs)
        at_bias = None if bias is None else bias.data_ptr()
        sizes = len(x), weight.data_ptr(), turned, outputs, inputs
        if not self._multiply_once(x.data_ptr(), *sizes, at_bias, out.data_ptr()):
            raise MemoryError("no memory to lay out the weights of a product")
        return out

    @_seen
    def drop_and_add(self, dropping: Dropping, x: Tensor, residual: Tensor) -> Tensor:
        """residual + dropped x, which is in fp32 or bf16."""
        x, out = x.contiguous(), torch.empty_like(residual, memory_format=torch.contiguous_format)
        halves = x.dtype == torch.bfloat16
        self._drop(dropping, x.data_ptr(), halves, residual.contiguous().data_ptr(), x.numel(), out.data_ptr())
        return out

    @_seen
    def drop_back(self, dropping: Dropping, gradient: Tensor, dtype: torch.dtype) -> Tensor:
        """The gradient of what ``drop_and_add`` returned → that of its x."""
        found = torch.empty_like(gradient, dtype=dtype, memory_format=torch.contiguous_format)
        halves = dtype == torch.bfloat16
        self._drop_back(dropping, gradient.contiguous().data_ptr(), found.numel(), found.data_ptr(), halves)
        return found

    @_seen
    def column_sums(self, x: Tensor) -> Tensor:
        """x [R, N] in fp32 or bf16 → [N] in fp32."""
        sums = torch.zeros(x.shape[1])
        self._sum_columns(x.data_ptr(), *x.shape, x.dtype == torch.bfloat16, sums.data_ptr())
        return sums

    @_seen
    def add(self, sums: Tensor, parts: Tensor) -> None:
        """sums += parts, which are in bf16; both lie alike."""
        self._add_halves(sums.data_ptr(), parts.data_ptr(), sums.numel())

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
