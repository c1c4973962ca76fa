"""Packed rows: the real tokens of a padded batch, one after another, so that padding costs nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from regard.nn.padding import everything_is_real, real, sent


def _once(made: dict[object, Tensor], key: object, make: Callable[[], Tensor]) -> Tensor:
    if key not in made:
        made[key] = make()
    return made[key]


#: Packed rows that products in bf16 come in. oneDNN makes a kernel for every number of rows, which takes as long as a
#: small product does: so there are few of them.
ROWS = 64


@dataclass(frozen=True)
class Packing:
    """Where the real tokens of a padded batch stand, so that all but attention computes on those alone.

    ``rows`` [R'] are the places of the R' real tokens among batch × size, in order, and ``starts`` [B + 1] says which
    of them is each sentence's first (int64, and int32 on an accelerator, as its kernels want them). Packed they are R
    rows, of which the ``spare`` last are of no token.
    """

    rows: Tensor
    starts: Tensor
    batch: int
    size: int
    spare: int = 0
    _made: dict[object, Tensor] = field(default_factory=dict, repr=False, compare=False)

    @staticmethod
    def of(lengths: Tensor, size: int) -> Packing | None:
        """The packing of right-padded sentences, ``lengths`` [B]; None where a CPU gains nothing by it.

        Lengths on an accelerator would have to be waited for: None there too.
        """
        if lengths.device.type != "cpu" or everything_is_real(lengths, size) or not lengths.any():
            return None
        narrow = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
        return Packing.made(lengths, size, multiple=ROWS if narrow else 1)

    @staticmethod
    def made(lengths: Tensor, size: int, multiple: int = 1) -> Packing:
        """The packing of sentences that are not all empty, ``lengths`` [B], in a multiple of so many rows."""
        rows = real(lengths, size).flatten().nonzero().squeeze(1)
        return Packing(rows, F.pad(lengths.cumsum(0), (1, 0)), len(lengths), size, -len(rows) % multiple)

    def to(self, device: torch.device) -> Packing:
        """The same on an accelerator."""
        rows, starts = sent(self.rows, device), sent(self.starts.to(torch.int32), device)
        return Packing(rows, starts, self.batch, self.size, self.spare)

    def twice(self) -> Packing:
        """Of the same sentences twice over."""
        rows = torch.cat([self.rows, self.rows + self.batch * self.size])
        starts = torch.cat([self.starts, self.starts[1:] + len(self.rows)])
        return Packing(rows, starts, 2 * self.batch, self.size, 2 * self.spare)

    def pack(self, x: Tensor) -> Tensor:
        """[B, T, D] → [R, D]: the real tokens."""
        return self.join_heads(x[:, None])

    def unpack(self, x: Tensor) -> Tensor:
        """[R, D] → [B, T, D], 0 where there is padding."""
        padded: Tensor = _Unpack.apply(x, self)  # type: ignore[no-untyped-call]
        return padded

    def split_heads(self, x: Tensor, counts: Sequence[int], width: int) -> tuple[Tensor, ...]:
        """[R, (Σ counts) · K] → [B, count, T, K] for each count. Where there is padding stands some real token.

        (No query of padding is read, and no key of padding is seen.)
        """
        heads: tuple[Tensor, ...] = _SplitHeads.apply(x, self, tuple(counts), width)  # type: ignore[no-untyped-call]
        return heads

    def join_heads(self, x: Tensor) -> Tensor:
        """[B, H, T, K] → [R, H · K]."""
        joined: Tensor = _JoinHeads.apply(x, self)  # type: ignore[no-untyped-call]
        return joined

    def heads_of(self, first: int, count: int, total: int) -> Tensor:
        """[B · count · T] where head by head, in a table [R · total, K], the tokens stand; made once."""

        def make() -> Tensor:
            number = self.rows.new_zeros(self.batch * self.size)
            number[self.rows] = torch.arange(0, total * len(self.rows), total, device=number.device)
            heads = torch.arange(first, first + count, device=number.device)
            return (number.view(self.batch, 1, self.size) + heads[:, None]).flatten()

        return _once(self._made, (first, count, total), make)

    def places_of(self, count: int) -> Tensor:
        """[R' · count] where token by token, in a table [B · count · T, K], the heads stand; made once."""

        def make() -> Tensor:
            sentence, place = self.rows // self.size, self.rows % self.size
            heads = torch.arange(count, device=sentence.device)
            return ((sentence[:, None] * count + heads) * self.size + place[:, None]).flatten()

        return _once(self._made, count, make)


class _Unpack(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, packing: Packing) -> Tensor:
        ctx.packing = packing
        return _spread(x, packing.rows, packing.batch, packing.size)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _gathered(gradient.flatten(0, 1), ctx.packing.rows, ctx.packing.spare), None


class _SplitHeads(torch.autograd.Function):
    """Unpacking, splitting and transposing are one pass over the numbers, and so is the way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, packing: Packing, counts: tuple[int, ...], width: int) -> tuple[Tensor, ...]:
        ctx.packing = packing
        table, total, first, found = x.reshape(-1, width), sum(counts), 0, []
        for count in counts:
            index = packing.heads_of(first, count, total)
            found.append(table.index_select(0, index).view(packing.batch, count, packing.size, width))
            first += count
        return tuple(found)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        return torch.cat([_joined(gradient, ctx.packing) for gradient in gradients], 1), None, None, None


class _JoinHeads(torch.autograd.Function):
    """Rows of a table, each at most once, so that the way back is a copy too and adds nothing up."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, packing: Packing) -> Tensor:
        ctx.packing, ctx.shape = packing, x.shape
        return _joined(x, packing)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        batch, count, size, width = ctx.shape
        places = ctx.packing.places_of(count)
        return _spread(gradient.reshape(-1, width), places, batch * count, size).view(ctx.shape), None


def _joined(x: Tensor, packing: Packing) -> Tensor:
    """[B, H, T, K] → [R, H · K]."""
    _, count, _, width = x.shape
    table = _gathered(x.reshape(-1, width), packing.places_of(count), packing.spare * count)
    return table.view(-1, count * width)


def _gathered(x: Tensor, rows: Tensor, spare: int) -> Tensor:
    """The chosen rows of x, and ``spare`` rows of 0 after them."""
    found = x.new_empty(len(rows) + spare, x.shape[1])
    torch.index_select(x, 0, rows, out=found[: len(rows)])
    found[len(rows) :] = 0
    return found


def _spread(x: Tensor, rows: Tensor, batch: int, size: int) -> Tensor:
    """The way back of ``_gathered``: x [R, D] → [batch, size, D]."""
    return x.new_zeros(batch * size, x.shape[1]).index_copy_(0, rows, x[: len(rows)]).view(batch, size, -1)
