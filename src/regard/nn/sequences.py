"""Batches of sequences: token ids, the memory of an encoder, and the output of a forward pass.

The axes of the whole package: ``B`` batch, ``S`` source length, ``T`` target length, ``D`` model width, ``H`` query
heads, ``G`` key–value heads, ``K`` head width, ``F`` feed-forward width, ``V`` vocabulary, ``L`` layers, ``N`` beams,
``Q`` queries of one attention (positions of a sentence, or hypotheses of a step), ``R`` rows without padding. Masks are
boolean and True means *may attend*.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from regard.nn.packing import Packing
from regard.nn.padding import sent


@dataclass(frozen=True)
class Tokens:
    """Sentences as ids, padded on the right: ``ids`` [B, S] int64 and their true ``lengths`` [B] int64.

    ``segments`` [B, S] int64 says which of a pair of texts each token belongs to, 0 or 1; None: all are of segment 0.
    The host makes the ``packing`` before it sends a batch to an accelerator, where reading lengths would make it wait.
    A subclass may add tensors with sentences on axis 0 and, where they have a second axis, positions on axis 1.
    """

    ids: Tensor
    lengths: Tensor
    packing: Packing | None = None
    segments: Tensor | None = None

    def to(self, device: torch.device | str) -> Self:
        """The same sentences on another device."""
        device = torch.device(device)
        packing = self.packing
        if self.lengths.device.type == "cpu" and device.type != "cpu" and self.lengths.any():
            packing = Packing.made(self.lengths, self.ids.shape[1]).to(device)
        return self._changed(lambda x: sent(x, device), packing=None if device.type == "cpu" else packing)

    def packed(self, wanted: bool) -> Packing | None:
        """The packing of the real tokens if it is ``wanted`` and saves work, else None."""
        if not wanted:
            return None
        return self.packing or Packing.of(self.lengths, self.ids.shape[1])

    def some(self, rows: Tensor) -> Self:
        """The chosen sentences, rows [B'], with no more padding than they need.

        Their packing is None, since the one of the whole batch does not fit; ``packed`` makes a new one.
        """
        longest = int(self.lengths[rows].max())
        return self._changed(lambda x: x[rows, :longest] if x.dim() > 1 else x[rows], packing=None)

    def twice(self) -> Self:
        """All the sentences, and then all of them again."""
        packing = None if self.packing is None else self.packing.twice()
        return self._changed(lambda x: torch.cat([x, x]), packing=packing)

    def _changed(self, change: Callable[[Tensor], Tensor], packing: Packing | None) -> Self:
        return replace(self, **_each_tensor(self, change), packing=packing)


@dataclass(frozen=True)
class Memory:
    """The output of an encoder, for a decoder: ``hidden`` [B, S, D], of which ``lengths`` [B] positions are real.

    ``packing`` says where they stand, if the encoder computed on them alone. Subclasses: see ``Tokens``.
    """

    hidden: Tensor
    lengths: Tensor
    packing: Packing | None = None

    def keep(self, index: Tensor) -> Self:
        """The memories of the chosen sentences, index [B']; they are padded, and not packed."""
        return replace(self, **_each_tensor(self, lambda x: x.index_select(0, index)), packing=None)

    def join(self, others: Sequence[Self]) -> Self:
        """The memories of these sentences and then of the others', padded with zeros to the longest; not packed."""
        parts = [self, *others]
        longest = max(part.hidden.shape[1] for part in parts)

        def padded(x: Tensor) -> Tensor:
            return F.pad(x, (0, 0) * (x.dim() - 2) + (0, longest - x.shape[1])) if x.dim() > 1 else x

        tensors = [_each_tensor(part, padded) for part in parts]
        joined = {name: torch.cat([each[name] for each in tensors]) for name in tensors[0]}
        return replace(self, **joined, packing=None)


def _each_tensor(batch: Tokens | Memory, change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """The changed tensors of a batch by name, its packing left out; a field of another kind is refused."""
    changed: dict[str, Any] = {}
    for each in fields(batch):
        value = getattr(batch, each.name)
        if isinstance(value, Tensor):
            changed[each.name] = change(value)
        elif value is not None and not isinstance(value, Packing):
            raise TypeError(f"{type(batch).__name__}.{each.name} is no tensor: it has no sentences to choose")
    return changed


@dataclass(frozen=True)
class Output:
    """The result of a forward pass: ``hidden`` [B, T, D], exactly what the output table multiplies.

    ``losses``: {name: scalar} of losses beside that of the task.
    """

    hidden: Tensor
    losses: dict[str, Tensor] = field(default_factory=dict)
