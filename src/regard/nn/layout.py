"""Who sees whom: token batches, the memory of an encoder, and the layout that attention reads.

The axes of the whole package: ``B`` batch, ``S`` source length, ``T`` target length, ``D`` model width, ``H`` query
heads, ``G`` key–value heads, ``K`` head width, ``F`` feed-forward width, ``V`` vocabulary, ``L`` layers, ``N`` beams;
``Q`` stands for the queries of one attention, whatever they are. Masks are boolean and True means *may attend*.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor


class Tokens(NamedTuple):
    """Sentences as ids, padded on the right: ``ids`` [B, S] int64 and their true ``lengths`` [B] int64."""

    ids: Tensor
    lengths: Tensor

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Tokens:
        """The same sentences on another device."""
        ids, lengths = (tensor.to(device, non_blocking=non_blocking) for tensor in self)
        return Tokens(ids, lengths)


class Memory(NamedTuple):
    """What an encoder leaves for a decoder: ``hidden`` [B, S, D], of which ``lengths`` [B] positions are real."""

    hidden: Tensor
    lengths: Tensor

    def keep(self, index: Tensor) -> Memory:
        """The memories of the chosen sentences, index [B']."""
        return Memory(self.hidden.index_select(0, index), self.lengths.index_select(0, index))


@dataclass(frozen=True)
class Output:
    """What a forward pass gives: ``hidden`` [B, T, D], before the output table, and named extra losses (scalars)."""

    hidden: Tensor
    losses: dict[str, Tensor] = field(default_factory=dict)


def everything_is_real(lengths: Tensor, size: int) -> bool:
    """Whether no sentence is padded, as far as this can be told for nothing: on CUDA the question would be a sync."""
    return lengths.device.type == "cpu" and bool((lengths == size).all())


def real(lengths: Tensor, size: int) -> Tensor:
    """[B, size] bool: True at the positions that are no padding."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]


@dataclass(frozen=True)
class Layout:
    """Who sees whom in one attention; made once per forward, above the layers, and read by the core only.

    ``mask`` is boolean and broadcastable to [B, 1, Q, S] (True = may attend), or None where nothing is hidden.
    ``causal`` says, with ``mask`` None, that query i sees keys 0 … i: kernels know this case without a mask.
    ``positions`` [B, Q] and ``key_positions`` [B, S] are the tokens' places in their sentences; None is 0, 1, 2 ….
    """

    mask: Tensor | None = None
    causal: bool = False
    positions: Tensor | None = None
    key_positions: Tensor | None = None
    _biases: dict[object, Tensor] = field(default_factory=dict, repr=False, compare=False)

    @staticmethod
    def padded(lengths: Tensor, size: int, causal: bool = False) -> Layout:
        """Self-attention of right-padded sentences, ``lengths`` [B], among ``size`` positions.

        With ``causal`` no mask is needed for the padding: it stands on the right, where no real query looks.
        (Rows of padding see what they like; nobody reads them.)
        """
        if causal or everything_is_real(lengths, size):
            return Layout(causal=causal)
        return Layout(mask=real(lengths, size)[:, None, None, :])

    @staticmethod
    def cross(query_lengths: Tensor | None, queries: int, key_lengths: Tensor, size: int) -> Layout:
        """Attention from ``queries`` positions of one sequence to the ``size`` positions of another.

        ``query_lengths`` changes nothing: the rows of padded queries are never read. It stands here for packed layouts.
        """
        if everything_is_real(key_lengths, size):
            return Layout()
        return Layout(mask=real(key_lengths, size)[:, None, None, :])

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
        if key not in self._biases:
            self._biases[key] = make()
        return self._biases[key]
