"""Sentences that enter a batch take the places of those that have left, so that nobody else is copied."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Places:
    """Where newcomers come to stand: ``index`` [B'] among the ``batch`` sentences that there are with them."""

    index: Tensor
    batch: int

    @staticmethod
    def of(count: int, free: Tensor | None, batch: int, device: torch.device) -> Places:
        """For ``count`` newcomers: the ``free`` places [F] of ``batch`` first, and then new ones behind.

        >>> Places.of(3, torch.tensor([1, 4]), 6, torch.device("cpu"))
        Places(index=tensor([1, 4, 6]), batch=7)
        """
        taken = torch.zeros(0, dtype=torch.int64, device=device) if free is None else free[:count]
        behind = count - len(taken)
        return Places(torch.cat((taken, torch.arange(batch, batch + behind, device=device))), batch + behind)

    def room(self, x: Tensor) -> Tensor:
        """x [B, *] with zeros for those who come behind."""
        more = self.batch - len(x)
        return torch.cat((x, x.new_zeros(more, *x.shape[1:]))) if more else x

    def put(self, mine: Tensor, theirs: Tensor) -> Tensor:
        """``theirs`` [B', *] in their places among ``mine`` [B, *], which is written over."""
        return self.room(mine).index_copy_(0, self.index, theirs)

    def put_first(self, mine: Tensor, theirs: Tensor, axis: int, size: int) -> Tensor:
        """Likewise the first ``size`` of theirs on an axis, over the first of mine there."""
        mine = self.room(mine)
        mine.narrow(axis, 0, size).index_copy_(0, self.index, theirs.narrow(axis, 0, size))
        return mine
