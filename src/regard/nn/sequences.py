"""Batches of sequences: token ids, what an encoder leaves for a decoder, and what a forward pass gives.

The axes of the whole package: ``B`` batch, ``S`` source length, ``T`` target length, ``D`` model width, ``H`` query
heads, ``G`` key–value heads, ``K`` head width, ``F`` feed-forward width, ``V`` vocabulary, ``L`` layers, ``N`` beams;
``Q`` stands for the queries of one attention, whatever they are. Masks are boolean and True means *may attend*.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from regard.nn.packing import Packing
from regard.nn.padding import sent


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
