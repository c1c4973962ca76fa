"""The structures of c/ that Python fills, field by field; ``mismatch`` compares their layout with a library's."""

from __future__ import annotations

import ctypes
from typing import Any

from torch import Tensor

pointer, size, number = ctypes.c_void_p, ctypes.c_long, ctypes.c_float


class StructureMismatch(Exception):
    """A library was compiled with another layout of a structure than Python's: calling it would read wrong memory."""


class Linear(ctypes.Structure):
    """``struct linear`` of products.h: prepacked weights; zeros: there is no such layer."""

    _fields_ = (
        ("inputs", size), ("outputs", size), ("kind", ctypes.c_int),
        ("panels", pointer), ("bias", pointer), ("scales", pointer), ("offsets", pointer),
    )  # fmt: skip


class Strided(ctypes.Structure):
    """``struct strided`` of attention.h: keys or values [B, G, S, K] and their strides in numbers."""

    _fields_ = (("data", pointer), ("sentence", size), ("head", size), ("token", size))

    @classmethod
    def of(cls, x: Tensor) -> Strided:
        assert x.stride(3) == 1
        return cls(x.data_ptr(), *x.stride()[:3])


class Mask(ctypes.Structure):
    """``struct mask`` of attention.h: numbers [B, H, Q, S] that are added to the scores; zeros: no mask."""

    _fields_ = (("data", pointer), ("sentence", size), ("head", size), ("query", size))

    @staticmethod
    def of(numbers: Tensor | None) -> Mask:
        """``numbers`` in fp32, whose last axis is contiguous; the other axes may be expanded."""
        return Mask() if numbers is None else Mask(numbers.data_ptr(), *numbers.stride()[:3])


class Rows(ctypes.Structure):
    """``struct rows`` of attention.h: the rows of a batch that are computed, by their indices among B × Q."""

    _fields_ = (("indices", pointer), ("count", size), ("queries", size))


class Norm(ctypes.Structure):
    """``struct norm`` of rows.h; zeros: no norm."""

    _fields_ = (("gain", pointer), ("bias", pointer), ("epsilon", number), ("centred", ctypes.c_int))


class Dropping(ctypes.Structure):
    """``struct dropout`` of rows.h: random bytes, the least that keeps its number, and the scale of what is kept."""

    _fields_ = (("bytes", pointer), ("least", ctypes.c_int), ("scale", number))


class HeadRows(ctypes.Structure):
    """``struct head_rows`` of varlen.h: queries, keys or values in packed rows."""

    _fields_ = (("data", pointer), ("stride", size))

    @classmethod
    def of(cls, x: Tensor) -> HeadRows:
        """x [B, H, T, K], the columns of a table of B · T rows; they may be some of a wider table's."""
        return cls(x.data_ptr(), x.stride(2))


class VarLen(ctypes.Structure):
    """``struct varlen`` of varlen.h: which packed rows make a sentence, and how they attend."""

    _fields_ = (
        ("queries", pointer), ("keys", pointer), *((name, size) for name in ("sentences", "heads", "groups", "width")),
        ("causal", ctypes.c_int), ("bf16", ctypes.c_int), ("scale", number), ("bias", Mask),
    )  # fmt: skip


class Attention(ctypes.Structure):
    """``struct attention`` of stack.c: the projections around self- or cross-attention, and its norm."""

    _fields_ = (("input", Linear), ("output", Linear), ("norm", Norm))


class Layer(ctypes.Structure):
    """``struct layer`` of stack.c."""

    _fields_ = (
        ("self_attention", Attention), ("cross_attention", Attention),
        ("input", Linear), ("gate", Linear), ("output", Linear), ("norm", Norm),
    )  # fmt: skip


class Stack(ctypes.Structure):
    """``struct stack`` of stack.c: sizes, arrangement and layers."""

    _fields_ = (
        *((name, size) for name in ("layers", "width", "heads", "groups", "head_width", "inner")),
        ("norm_first", ctypes.c_int), ("activation", ctypes.c_int),
        ("layer", ctypes.POINTER(Layer)), ("final_norm", Norm),
    )  # fmt: skip


class KeyValues(ctypes.Structure):
    """``struct key_values`` of stack.c: the keys and values of one layer."""

    _fields_ = (("keys", Strided), ("values", Strided))


class Call(ctypes.Structure):
    """``struct call`` of stack.c: one forward pass of a stack."""

    _fields_ = (
        ("rows", Rows), ("x", pointer), ("bf16", ctypes.c_int),
        ("cache", pointer), ("slots", pointer), ("keys", size), ("mask", Mask),
        ("memory", pointer), ("memory_keys", size), ("memory_mask", Mask),
        ("cosine", pointer), ("sine", pointer), ("rotation_stride", size),
    )  # fmt: skip


#: The name in C → the class.
MIRRORED: dict[str, type[ctypes.Structure]] = {
    "linear": Linear, "strided": Strided, "mask": Mask, "rows": Rows, "norm": Norm, "dropout": Dropping,
    "head_rows": HeadRows, "varlen": VarLen, "attention": Attention, "layer": Layer, "stack": Stack,
    "key_values": KeyValues, "call": Call,
}  # fmt: skip


def mismatch(library: Any) -> str | None:
    """How a structure of the library differs from Python's in its size or its last field's offset; None: none does."""
    for ask in (library.structure_size, library.last_field_offset):
        ask.argtypes, ask.restype = (ctypes.c_char_p,), ctypes.c_long
    for name, mirror in MIRRORED.items():
        last: str = mirror._fields_[-1][0]
        here = ctypes.sizeof(mirror), getattr(mirror, last).offset
        there = library.structure_size(name.encode()), library.last_field_offset(name.encode())
        if here != there:
            return (
                f"struct {name} has {there[0]} bytes in C, the last field at {there[1]}, and {here[0]} in Python, "
                f"{last} at {here[1]}"
            )
    return None
