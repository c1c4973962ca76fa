"""The native kernels of c/, called on tensors. Without a compiled library PyTorch's operators compute everything."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, Protocol, TypeVar

import torch
from torch import Tensor

from regard.accel import shared_library, structures
from regard.accel.structures import Dropping, HeadRows, KeyValues, Linear, Strided, VarLen, number, pointer, size
from regard.accel.thresholds import KERNEL_THREADS

P = ParamSpec("P")
T = TypeVar("T")

LANES = 16  # fp32 numbers of the widest register: head widths that the kernels take are multiples
KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2}  # of weights: ``enum kind`` of products.h
PACKED_AT_ONCE = 1 << 18  # numbers that are laid out at once
INPUTS_OF_UNIT = (1, 2, 4)  # inputs in the 4 bytes of a unit, by kind (products.h)
PARTS = ("products with weights", "attention", "norms")  # of a stack's time: ``enum part`` of stack.c


@functools.cache
def library() -> Native | None:
    """The compiled kernels; None where there are none."""
    return shared_library.load(Native)


def at_hand() -> bool:
    """Whether ``library`` is there without being compiled first."""
    loaded = library.cache_info().currsize > 0
    return (loaded or shared_library.is_there()) and library() is not None


def multiplying(dtype: torch.dtype) -> Native | None:
    """The kernels, if they multiply with weights of this type."""
    kernels = library()
    return kernels if kernels and kernels.multiplies.get(dtype) else None


def for_training(x: Tensor, dtype: torch.dtype | None = None) -> Native | None:
    """The kernels, if they take x's type (or ``dtype``) and are faster in training than PyTorch's operators."""
    known = x.device.type == "cpu" and (dtype or x.dtype) in (torch.float32, torch.bfloat16)
    return library() if known and torch.get_num_threads() <= KERNEL_THREADS else None


def _profiled(call: Callable[P, T]) -> Callable[P, T]:
    """The same call, which PyTorch's profiler lists like an operator."""

    @functools.wraps(call)
    def profiled(*args: P.args, **kwargs: P.kwargs) -> T:
        if not torch._C._autograd._profiler_enabled():
            return call(*args, **kwargs)
        with torch.profiler.record_function(f"native::{call.__name__}"):
            return call(*args, **kwargs)

    return profiled


class Native:
    """A method for each kernel; tensors are on the CPU, need no gradient, and are fp32 where nothing else is said."""

    def __init__(self, kernels: Any) -> None:
        """``kernels``: the loaded library. Raises StructureMismatch if it was compiled with other structures."""
        if different := structures.mismatch(kernels):
            raise structures.StructureMismatch(different)
        self._linear, self._stack, self._spent = kernels.run_linear, kernels.run, kernels.seconds_spent
        self._project, self._topk, self._topk_of_table = kernels.project, kernels.topk, kernels.topk_of_table
        self._linear.argtypes = (pointer, pointer, size, pointer)
        self._stack.argtypes = (pointer, pointer)
        self._project.argtypes = (pointer, pointer, size, size, pointer, KeyValues, ctypes.c_int, size, size)
        of_topk = (size, pointer, size, pointer, size, pointer, pointer, pointer)
        self._topk.argtypes, self._topk.restype = (pointer, size, size, *of_topk), None
        self._topk_of_table.argtypes = (pointer, pointer, size, *of_topk)
        self._attend, self._attend_backward = kernels.attend_varlen, kernels.attend_varlen_backward
        self._attend.argtypes = (pointer, *(HeadRows,) * 4, pointer)
        self._attend_backward.argtypes = (pointer, *(HeadRows,) * 3, pointer, *(HeadRows,) * 4)
        self._softmax_gradient, self._add_bf16 = kernels.softmax_gradient, kernels.add_bf16
        self._softmax_gradient.argtypes = (pointer, size, size, pointer, number, ctypes.c_int, pointer)
        self._add_bf16.argtypes, self._add_bf16.restype = (pointer, pointer, size), None
        self._drop, self._drop_backward = kernels.drop_and_add, kernels.drop_backward
        self._drop.argtypes = (Dropping, pointer, ctypes.c_int, pointer, size, pointer)
        self._drop_backward.argtypes = (Dropping, pointer, size, pointer, ctypes.c_int)
        self._drop.restype = self._drop_backward.restype = None
        self._multiply_once = kernels.multiply_once
        self._multiply_once.argtypes = (pointer, size, pointer, ctypes.c_int, size, size, pointer, pointer)
        self._sum_columns = kernels.sum_columns
        self._sum_columns.argtypes, self._sum_columns.restype = (pointer, size, size, ctypes.c_int, pointer), None
        self._spent.restype = ctypes.POINTER(ctypes.c_double * len(PARTS))
        self.panel: int = kernels.panel()
        self.weight_limit: int = kernels.weight_limit()  # the largest absolute value of a weight in int8
        self.multiplies = {dtype: bool(kernels.multiplies(kind)) for dtype, kind in KINDS.items()}

    def __deepcopy__(self, memo: object) -> Native:
        return self

    @_profiled
    def product(self, x: Tensor, matrix: Matrix) -> Tensor:
        """x [*, in] → [*, out]"""
        x = x.contiguous()
        out = x.new_empty(*x.shape[:-1], matrix.outputs)
        rows = x.numel() // x.shape[-1]
        if not self._linear(ctypes.byref(matrix.linear), x.data_ptr(), rows, out.data_ptr()):
            raise MemoryError("no memory for the rows of a product")
        return out

    @_profiled
    def stack(self, stack: ctypes.Structure, call: ctypes.Structure) -> None:
        """A forward pass through all layers of a stack (stack.py)."""
        if not self._stack(ctypes.byref(stack), ctypes.byref(call)):
            raise MemoryError("no memory for the activations of a stack")

    @_profiled
    def project(self, matrix: Matrix, memory: Tensor, lengths: Tensor, keys: Tensor, values: Tensor) -> None:
        """Writes the keys and values [B, G, S, K] of a memory [B, S, D], for its first ``lengths`` [B] tokens."""
        memory, lengths = memory.contiguous(), lengths.to("cpu", torch.int64)
        batch, groups, tokens, width = keys.shape
        done = self._project(
            ctypes.byref(matrix.linear), memory.data_ptr(), batch, tokens, lengths.data_ptr(),
            KeyValues(Strided.of(keys), Strided.of(values)), keys.dtype == torch.bfloat16, groups, width,
        )  # fmt: skip
        if not done:
            raise MemoryError("no memory for keys and values")

    @_profiled
    def topk(self, scores: Tensor, k: int, ends: Tensor, suppressed: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Scores [R, V] → log-probabilities and tokens [R, k] of the top k, descending, and those of ``ends`` [R, E].

        The scores may be overwritten. Of equal scores the first token is first; ``suppressed`` [n] are left out.
        """
        scores = scores.contiguous()
        found, arguments = _room_for_topk(scores, k, ends, suppressed)
        self._topk(scores.data_ptr(), *scores.shape, k, *arguments)
        return found

    @_profiled
    def topk_of_table(
        self, table: Matrix, x: Tensor, k: int, ends: Tensor, suppressed: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """``topk`` of the scores that x [R, D] gets by an output table."""
        x = x.contiguous()
        found, arguments = _room_for_topk(x, k, ends, suppressed)
        if not self._topk_of_table(ctypes.byref(table.linear), x.data_ptr(), len(x), k, *arguments):
            raise MemoryError("no memory for the scores of a few rows")
        return found

    @_profiled
    def attention(self, varlen: VarLen, *heads: Tensor) -> Tensor:
        """``heads``: query, key, value (read) and mixed (written), each [B, H, T, K] as columns of a table.

        Returns the log-sum-exp of each query's scores [R, H], which ``attention_backward`` needs.
        """
        sums = torch.empty(heads[0].shape[0] * heads[0].shape[2], varlen.heads)
        if not self._attend(ctypes.byref(varlen), *map(HeadRows.of, heads), sums.data_ptr()):
            raise MemoryError("no memory for the heads of a sentence")
        return sums

    @_profiled
    def attention_backward(
        self, varlen: VarLen, inputs: Sequence[Tensor], sums: Tensor, gradient: Tensor, gradients: Sequence[Tensor]
    ) -> None:
        """The gradient of ``mixed`` → the ``gradients`` of query, key and value, which were the ``inputs``."""
        tables = *map(HeadRows.of, inputs), sums.data_ptr(), HeadRows.of(gradient), *map(HeadRows.of, gradients)
        if not self._attend_backward(ctypes.byref(varlen), *tables):
            raise MemoryError("no memory for the heads of a sentence")

    @_profiled
    def softmax_gradient(self, logits: Tensor, labels: Tensor, confidence: float) -> tuple[float, float]:
        """Logits [R, V] in fp32 or bf16 → in place softmax - ``confidence`` · one-hot(labels [R]).

        Returns the sum of the negative log-likelihoods -log p(label), and that of the labels' logits.
        """
        sums = (ctypes.c_double * 2)()
        bf16 = logits.dtype == torch.bfloat16
        done = self._softmax_gradient(logits.data_ptr(), *logits.shape, labels.data_ptr(), confidence, bf16, sums)
        if done < 0:
            raise IndexError(f"a label is not among the {logits.shape[1]} of the output table")
        if not done:
            raise MemoryError("no memory for a row of logits")
        return sums[0], sums[1]

    @_profiled
    def product_once(self, x: Tensor, weight: Tensor, bias: Tensor | None, transposed: bool = False) -> Tensor:
        """x [R, in] and weight [out, in], or if ``transposed`` [in, out] → [R, out]; for weights that change."""
        x, weight = x.contiguous(), weight.contiguous()
        outputs, inputs = weight.shape[::-1] if transposed else weight.shape
        out = x.new_empty(len(x), outputs)
        at_bias = None if bias is None else bias.data_ptr()
        sizes = len(x), weight.data_ptr(), transposed, outputs, inputs
        if not self._multiply_once(x.data_ptr(), *sizes, at_bias, out.data_ptr()):
            raise MemoryError("no memory to prepack the weights of a product")
        return out

    @_profiled
    def drop_and_add(self, dropping: Dropping, x: Tensor, residual: Tensor) -> Tensor:
        """residual + dropout(x), x in fp32 or bf16."""
        x, out = x.contiguous(), torch.empty_like(residual, memory_format=torch.contiguous_format)
        bf16 = x.dtype == torch.bfloat16
        self._drop(dropping, x.data_ptr(), bf16, residual.contiguous().data_ptr(), x.numel(), out.data_ptr())
        return out

    @_profiled
    def drop_backward(self, dropping: Dropping, gradient: Tensor, dtype: torch.dtype) -> Tensor:
        """The gradient of what ``drop_and_add`` returned → that of its x, in ``dtype``."""
        found = torch.empty_like(gradient, dtype=dtype, memory_format=torch.contiguous_format)
        bf16 = dtype == torch.bfloat16
        self._drop_backward(dropping, gradient.contiguous().data_ptr(), found.numel(), found.data_ptr(), bf16)
        return found

    @_profiled
    def column_sums(self, x: Tensor) -> Tensor:
        """x [R, N] in fp32 or bf16 → [N] in fp32."""
        sums = torch.zeros(x.shape[1])
        self._sum_columns(x.data_ptr(), *x.shape, x.dtype == torch.bfloat16, sums.data_ptr())
        return sums

    @_profiled
    def add(self, sums: Tensor, parts: Tensor) -> None:
        """sums += parts, which are in bf16 and have the same strides."""
        self._add_bf16(sums.data_ptr(), parts.data_ptr(), sums.numel())

    def spent(self) -> dict[str, float]:
        """The seconds that ``stack`` has taken in this process, by part."""
        return dict(zip(PARTS, self._spent().contents, strict=True))


def _room_for_topk(
    rows: Tensor, k: int, ends: Tensor, suppressed: Tensor | None
) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[int | None, ...]]:
    """The tensors that a top-k kernel fills, and its last arguments."""
    values, of_ends = rows.new_empty(len(rows), k), rows.new_empty(len(rows), len(ends))
    tokens = torch.empty_like(values, dtype=torch.int64)
    left_out = (None, 0) if suppressed is None else (suppressed.data_ptr(), len(suppressed))
    given = ends.data_ptr(), len(ends), *left_out
    return (values, tokens, of_ends), (*given, values.data_ptr(), tokens.data_ptr(), of_ends.data_ptr())


class Weight(Protocol):
    """A weight [out, in] whose rows are taken some at a time: a tensor, or one that is still being read."""

    @property
    def shape(self) -> torch.Size: ...
    @property
    def dtype(self) -> torch.dtype: ...
    def __getitem__(self, rows: slice, /) -> Tensor: ...


class Matrix:
    """The prepacked weights of a linear layer, for ``Native.product``; they never change."""

    def __init__(self, native: Native, weight: Weight, bias: Tensor | None, scales: Tensor | None = None) -> None:
        """weight [out, in] in fp32, bf16 or int8, bias [out]; in int8 a weight is an integer times ``scales`` [out].

        Some panels of rows are laid out at a time, so that they need little memory beside the result's.
        """
        self.native, kind, panel = native, KINDS[weight.dtype], native.panel
        self.outputs, inputs = weight.shape
        panels = -(-self.outputs // panel)
        unit = INPUTS_OF_UNIT[kind]
        units = -(-inputs // unit)

        def padded(x: Tensor | None, dtype: torch.dtype) -> Tensor:
            wide = torch.zeros(panels * panel, dtype=dtype)
            if x is not None:
                wide[: self.outputs] = x
            return wide

        prepacked = torch.empty(panels, units, panel, unit, dtype=weight.dtype)
        offsets = padded(None, torch.int32)
        step = max(1, PACKED_AT_ONCE // (panel * units * unit))
        for first in range(0, panels, step):
            rows = weight[first * panel : (first + step) * panel].detach()
            part = prepacked[first : first + step]
            whole = rows.new_zeros(len(part) * panel, units * unit)
            whole[: len(rows), :inputs] = rows
            part.copy_(whole.view(len(part), panel, units, unit).transpose(1, 2))
            if scales is not None:
                offsets[first * panel :][: len(rows)] = 128 * rows.sum(1, dtype=torch.int32)
        self._tensors = (prepacked, padded(bias, torch.float32), padded(scales, torch.float32), offsets)
        self.linear = Linear(inputs, self.outputs, kind, *(x.data_ptr() for x in self._tensors))

    def rows(self, index: Tensor) -> Tensor:
        """The rows [*, in] of the weight at an index [*]."""
        panel, laid_out = self.native.panel, self._tensors[0]
        found = laid_out[index // panel, :, index % panel]  # [*, units, inputs of a unit]
        return found.flatten(-2)[..., : self.linear.inputs]

    def __deepcopy__(self, memo: object) -> Matrix:
        return self

    def __call__(self, x: Tensor) -> Tensor:
        """x [*, in] → [*, out]"""
        return self.native.product(x, self)
