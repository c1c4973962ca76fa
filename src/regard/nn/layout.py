"""Who sees whom: token batches, the memory of an encoder, and the layout that attention reads.

The axes of the whole package: ``B`` batch, ``S`` source length, ``T`` target length, ``D`` model width, ``H`` query
heads, ``G`` key–value heads, ``K`` head width, ``F`` feed-forward width, ``V`` vocabulary, ``L`` layers, ``N`` beams;
``Q`` stands for the queries of one attention, whatever they are. Masks are boolean and True means *may attend*.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Tokens(NamedTuple):
    """Sentences as ids, padded on the right: ``ids`` [B, S] int64 and their true ``lengths`` [B] int64.

    An accelerator's lengths would have to be waited for, so there the ``packing`` comes with them, made by the host.
    """

    ids: Tensor
    lengths: Tensor
    packing: Packing | None = None

    def to(self, device: torch.device | str) -> Tokens:
        """The same sentences on another device."""
        device = torch.device(device)
        packing = self.packing
        if self.lengths.device.type == "cpu" and device.type != "cpu" and self.lengths.any():
            packing = Packing.made(self.lengths, self.ids.shape[1]).to(device)
        return Tokens(sent(self.ids, device), sent(self.lengths, device), None if device.type == "cpu" else packing)

    def packed(self, wanted: bool) -> Packing | None:
        """How to leave the padding out of all that is computed, where that is wanted and gains."""
        if not wanted:
            return None
        return self.packing or Packing.of(self.lengths, self.ids.shape[1])

    def some(self, rows: Tensor) -> Tokens:
        """The chosen sentences, with no more padding than they need."""
        lengths = self.lengths[rows]
        return Tokens(self.ids[rows, : int(lengths.max())], lengths)

    def twice(self) -> Tokens:
        """The sentences and, after them, the same once more."""
        packing = None if self.packing is None else self.packing.twice()
        return Tokens(torch.cat([self.ids, self.ids]), torch.cat([self.lengths, self.lengths]), packing)


class Memory(NamedTuple):
    """What an encoder leaves for a decoder: ``hidden`` [B, S, D], of which ``lengths`` [B] positions are real.

    ``packing`` says where they stand, if the encoder computed on those alone.
    """

    hidden: Tensor
    lengths: Tensor
    packing: Packing | None = None

    def keep(self, index: Tensor) -> Memory:
        """The memories of the chosen sentences, index [B']."""
        return Memory(self.hidden.index_select(0, index), self.lengths.index_select(0, index))


@dataclass(frozen=True)
class Output:
    """What a forward pass gives: ``hidden`` [B, T, D], before the output table, and named extra losses (scalars)."""

    hidden: Tensor
    losses: dict[str, Tensor] = field(default_factory=dict)


def sent(x: Tensor, device: torch.device) -> Tensor:
    """x on another device; the host goes on while CUDA copies, which it can from memory that stays where it is."""
    if device.type != "cuda" or x.device.type != "cpu":
        return x.to(device)
    return x.pin_memory().to(device, non_blocking=True)


def everything_is_real(lengths: Tensor, size: int) -> bool:
    """Whether no sentence is padded, as far as this can be told for nothing: on CUDA the question would be a sync."""
    return lengths.device.type == "cpu" and bool((lengths == size).all())


def real(lengths: Tensor, size: int) -> Tensor:
    """[B, size] bool: True at the positions that are no padding."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]


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


@dataclass(frozen=True)
class Layout:
    """Who sees whom in one attention; made once per forward, above the layers, and read by the core only.

    ``mask`` is boolean and broadcastable to [B, 1, Q, S] (True = may attend), or None where nothing is hidden.
    ``causal`` says, with ``mask`` None, that query i sees keys 0 … i: kernels know this case without a mask.
    ``positions`` [B, Q] and ``key_positions`` [B, S] are the tokens' places in their sentences; None is 0, 1, 2 ….
    With a ``packing``, what comes and goes is [R, D], the real tokens, and likewise for ``key_packing`` and a memory.
    """

    mask: Tensor | None = None
    causal: bool = False
    positions: Tensor | None = None
    key_positions: Tensor | None = None
    packing: Packing | None = None
    key_packing: Packing | None = None
    _biases: dict[object, Tensor] = field(default_factory=dict, repr=False, compare=False)

    @staticmethod
    def padded(lengths: Tensor, size: int, causal: bool = False, *, packing: Packing | None = None) -> Layout:
        """Self-attention of right-padded sentences, ``lengths`` [B], among ``size`` positions, or as they are packed.

        With ``causal`` no mask is needed for the padding: it stands on the right, where no real query looks.
        (Rows of padding see what they like; nobody reads them.)
        """
        if causal or everything_is_real(lengths, size):
            return Layout(causal=causal, packing=packing)
        return Layout(mask=real(lengths, size)[:, None, None, :], packing=packing)

    @staticmethod
    def cross(key_lengths: Tensor, size: int, *, queries: Packing | None = None, keys: Packing | None = None) -> Layout:
        """Attention from one sequence to the ``size`` positions of another, each with its packing if it has one.

        Rows of padded queries see what the others see; nobody reads them.
        """
        if everything_is_real(key_lengths, size):
            return Layout(packing=queries, key_packing=keys)
        return Layout(mask=real(key_lengths, size)[:, None, None, :], packing=queries, key_packing=keys)

    @staticmethod
    def cached(visible: Tensor, positions: Tensor, key_positions: Tensor | None = None) -> Layout:
        """One decoding step: ``visible`` [B, N, slots] bool says which slots of the cache each of N queries sees.

        ``positions`` [B, N] are the queries' places, ``key_positions`` [B, slots] those of the slots.
        """
        return Layout(mask=visible[:, None], positions=positions, key_positions=key_positions)

    def allowed(self, queries: int, keys: int, device: torch.device) -> Tensor | None:
        """The mask written out, broadcastable to [B, 1, Q, S]; None where every query sees every key."""
        if not self.causal:
            return self.mask
        causal = torch.ones(queries, keys, dtype=torch.bool, device=device).tril_()
        return causal if self.mask is None else self.mask & causal

    def once(self, key: object, make: Callable[[], Tensor]) -> Tensor:
        """A tensor that the layers of one forward share, made when it is first asked for."""
        return _once(self._biases, key, make)
