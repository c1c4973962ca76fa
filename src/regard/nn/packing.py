"""Packed rows: the real tokens of a padded batch, one after another, so that padding costs nothing.

A packed batch is a batch of one long sequence, [1, R, D]. Only attention must know where its sentences begin.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from regard.nn.padding import everything_is_real, real, sent

#: In bf16 on a CPU the number of packed rows is a multiple of this. oneDNN generates a kernel for every number of rows
#: that it meets, which takes as long as a small product.
ROWS = 64


@dataclass(frozen=True)
class Packing:
    """Where the real tokens of a padded batch stand.

    ``rows`` [R'] are the indices of the R' real tokens in the flattened batch × size, in order. ``starts`` [B + 1] says
    which of them is each sentence's first, and ends with R' (int64; int32 on an accelerator, for its kernels). A packed
    tensor has R rows, of which the last ``spare`` belong to no token.
    """

    rows: Tensor
    starts: Tensor
    batch: int
    size: int
    spare: int = 0

    @staticmethod
    def of(lengths: Tensor, size: int) -> Packing | None:
        """The packing of right-padded sentences, ``lengths`` [B]; None where no sentence is padded or all are empty.

        None for lengths on an accelerator too: reading them would make the host wait.
        """
        if lengths.device.type != "cpu" or everything_is_real(lengths, size) or not lengths.any():
            return None
        bf16 = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
        return Packing.made(lengths, size, multiple=ROWS if bf16 else 1)

    @staticmethod
    def made(lengths: Tensor, size: int, multiple: int = 1) -> Packing:
        """The packing of sentences that are not all empty, ``lengths`` [B]; R is a multiple of ``multiple``."""
        rows = real(lengths, size).flatten().nonzero().squeeze(1)
        return Packing(rows, F.pad(lengths.cumsum(0), (1, 0)), len(lengths), size, -len(rows) % multiple)

    def to(self, device: torch.device) -> Packing:
        """The same packing on an accelerator."""
        rows, starts = sent(self.rows, device), sent(self.starts.to(torch.int32), device)
        return Packing(rows, starts, self.batch, self.size, self.spare)

    def twice(self) -> Packing:
        """The packing of the same sentences twice over."""
        rows = torch.cat([self.rows, self.rows + self.batch * self.size])
        starts = torch.cat([self.starts, self.starts[1:] + len(self.rows)])
        return Packing(rows, starts, 2 * self.batch, self.size, 2 * self.spare)

    def pack(self, x: Tensor) -> Tensor:
        """[B, T, D] → [1, R, D]: the real tokens, and 0 in the spare rows."""
        packed: Tensor = _Pack.apply(x, self)  # type: ignore[no-untyped-call]
        return packed

    def unpack(self, x: Tensor) -> Tensor:
        """[1, R, D] → [B, T, D], 0 where there is padding."""
        padded: Tensor = _Unpack.apply(x, self)  # type: ignore[no-untyped-call]
        return padded

    def pack_heads(self, x: Tensor) -> Tensor:
        """[B, H, T, K] → [1, H, R, K]."""
        return _transposed(self.pack(_joined(x)), x.shape[3])

    def unpack_heads(self, x: Tensor) -> Tensor:
        """[1, H, R, K] → [B, H, T, K], 0 at padding; contiguous, as batched products read them."""
        return _transposed(self.unpack(_joined(x)), x.shape[3]).contiguous()

    def positions(self) -> Tensor:
        """[1, R] each row's position in its sentence; 0 for spare rows."""
        return F.pad(self.rows % self.size, (0, self.spare))[None]


def _joined(x: Tensor) -> Tensor:
    """[B, H, T, K] → [B, T, H · K]."""
    return x.transpose(1, 2).flatten(2)


def _transposed(x: Tensor, width: int) -> Tensor:
    """[B, T, H · K] → [B, H, T, K]."""
    return x.view(*x.shape[:2], x.shape[2] // width, width).transpose(1, 2)


class _Pack(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, packing: Packing) -> Tensor:
        ctx.packing = packing
        return _gathered(x, packing)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _scattered(gradient, ctx.packing), None


class _Unpack(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, packing: Packing) -> Tensor:
        ctx.packing = packing
        return _scattered(x, packing)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _gathered(gradient, ctx.packing), None


def _gathered(x: Tensor, packing: Packing) -> Tensor:
    """x [B, T, D] → [1, R, D]. Each row is read at most once, so that the backward pass is a copy and no sum."""
    real = len(packing.rows)
    found = x.new_empty(real + packing.spare, x.shape[2])
    torch.index_select(x.flatten(0, 1), 0, packing.rows, out=found[:real])
    found[real:] = 0
    return found[None]


def _scattered(x: Tensor, packing: Packing) -> Tensor:
    """x [1, R, D] → [B, T, D]."""
    padded = x.new_zeros(packing.batch * packing.size, x.shape[2])
    return padded.index_copy_(0, packing.rows, x[0, : len(packing.rows)]).view(packing.batch, packing.size, -1)
