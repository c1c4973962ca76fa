"""A batch of examples as tensors, padded on the right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from regard.nn.padding import sent
from regard.nn.sequences import Tokens
from regard.text.marks import source_marks, target_end, target_start, unscored
from regard.text.settings import TextSettings

IGNORED = -100  # the label of padding and of forced tokens, which have no loss


@dataclass(frozen=True)
class Batch:
    """A batch of B examples; ``source`` is None for a model without one.

    ``source``: ids with their marks, [B, S]. ``target``: start marks + ids, [B, T]. ``labels`` [B, T]: what is to be
    predicted at each target token (of texts the next token, the end mark included), or ``IGNORED``; [B]: the labels of
    whole texts. ``target_tokens`` counts the labels that are not ignored; it is a Python number, so that reading it
    never waits for a device.
    """

    source: Tokens | None
    target: Tokens
    labels: Tensor
    target_tokens: int

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        source = None if self.source is None else self.source.to(device)
        return replace(
            self, source=source, target=self.target.to(device), labels=sent(self.labels, torch.device(device))
        )

    def dealt(self, count: int) -> list[Batch]:
        """Divide the batch into ``count`` batches with about equally many tokens, each padded to its own longest.

        The longest examples are dealt first, in the order 0, 1, 1, 0, 0, 1 ….
        """
        tokens = self.target.lengths + (0 if self.source is None else self.source.lengths)
        order = tokens.argsort(descending=True, stable=True)
        turns = torch.arange(len(order)) % (2 * count)
        whose = torch.minimum(turns, 2 * count - 1 - turns)
        return [self._some(order[whose == number]) for number in range(count)]

    def _some(self, rows: Tensor) -> Batch:
        target = self.target.some(rows)
        labels = self.labels[rows]
        labels = labels if labels.dim() == 1 else labels[:, : target.ids.shape[1]]
        source = None if self.source is None else self.source.some(rows)
        return Batch(source, target, labels, int((labels != IGNORED).sum()))


def collate(
    sources: Sequence[Sequence[int] | np.ndarray] | None,
    targets: Sequence[Sequence[int] | np.ndarray],
    settings: TextSettings,
) -> Batch:
    """A batch of pairs of ids (without marks).

    >>> batch = collate([[7, 8]], [[9]], TextSettings())  # ends with 3, starts with 2
    >>> batch.source.ids.tolist(), batch.target.ids.tolist(), batch.labels.tolist()
    ([[7, 8, 3]], [[2, 9]], [[9, 3]])
    """
    start, end = tuple(target_start(settings)), target_end(settings)
    first = unscored(len(start))
    full = _padded(targets, start, end, IGNORED)
    inputs, labels = full[:, :-1].clone(), full[:, 1:].clone()
    lengths = torch.tensor([max(0, len(start) + len(row) + len(end) - 1) for row in targets], dtype=torch.int64)
    inputs[torch.arange(inputs.shape[1]) >= lengths[:, None]] = settings.pad
    labels[:, :first] = IGNORED
    return Batch(
        source=None if sources is None else pad_sources(sources, settings),
        target=Tokens(inputs, lengths),
        labels=labels,
        target_tokens=int((lengths - first).clamp(min=0).sum()),
    )


def pad_sources(sources: Sequence[Sequence[int] | np.ndarray], settings: TextSettings) -> Tokens:
    """Sources, each with its marks, as ids [B, S] and lengths [B]."""
    before, after = source_marks(settings)
    lengths = torch.tensor([len(before) + len(row) + len(after) for row in sources], dtype=torch.int64)
    return Tokens(_padded(sources, before, after, settings.pad), lengths)


def _padded(
    rows: Sequence[Sequence[int] | np.ndarray], before: tuple[int, ...], after: tuple[int, ...], padding: int
) -> Tensor:
    """``before + row + after`` for each row, padded to the longest: [B, longest]."""
    longest = max((len(row) for row in rows), default=0) + len(before) + len(after)
    table = np.full((len(rows), longest), padding, dtype=np.int64)
    first = len(before)
    table[:, :first] = before
    for line, row in zip(table, rows, strict=True):
        end = first + len(row)
        line[first:end] = row
        line[end : end + len(after)] = after
    return torch.from_numpy(table)
