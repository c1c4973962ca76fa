"""Sentences that enter a batch take the rows of those that have left, so that no other sentence is copied."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """The rows ``index`` [B'] that entering sentences take in a batch, which then has ``batch`` rows."""

    index: Tensor
    batch: int

    @staticmethod
    def of(count: int, free: Tensor | None, batch: int, device: torch.device) -> Rows:
        """For ``count`` entering sentences: the ``free`` rows [F] of ``batch`` first, and then new rows at the end.

        >>> Rows.of(3, torch.tensor([1, 4]), 6, torch.device("cpu"))
        Rows(index=tensor([1, 4, 6]), batch=7)
        """
        taken = torch.zeros(0, dtype=torch.int64, device=device) if free is None else free[:count]
        behind = count - len(taken)
        return Rows(torch.cat((taken, torch.arange(batch, batch + behind, device=device))), batch + behind)

    def room(self, x: Tensor) -> Tensor:
        """x [B, *], with rows of zeros at the end for the sentences that find no free row."""
        more = self.batch - len(x)
        return torch.cat((x, x.new_zeros(more, *x.shape[1:]))) if more else x

    def put(self, x: Tensor, entering: Tensor) -> Tensor:
        """x [B, *] with ``entering`` [B', *] written into its rows; x itself is overwritten where no row is added."""
        return self.room(x).index_copy_(0, self.index, entering)

    def put_first(self, x: Tensor, entering: Tensor, axis: int, size: int) -> Tensor:
        """As ``put``, but only the first ``size`` entries of ``entering`` along an axis are written."""
        x = self.room(x)
        x.narrow(axis, 0, size).index_copy_(0, self.index, entering.narrow(axis, 0, size))
        return x
