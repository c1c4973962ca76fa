"""The batches of every update, made from the plan; the position in the data is (epoch, update) and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from regard.config import Config
from regard.data.batch import Batch
from regard.data.plan import Indices, Update, plan
from regard.errors import RegardError
from regard.tasks.task import Examples
from regard.training.distributed import Group


@dataclass(frozen=True)
class Item:
    """This process's batches of one update.

    ``target_tokens`` counts those of its batches, ``planned_tokens`` those of all processes. ``lengths`` are
    (source [n], target [n]) of its n examples, without padding, marks included; a side that is not there is 0 long.
    """

    epoch: int
    number: int
    indices: list[Indices]
    batches: list[Batch]
    target_tokens: int
    planned_tokens: int
    lengths: tuple[NDArray[np.int64], NDArray[np.int64]]

    @staticmethod
    def of(epoch: int, number: int, indices: list[Indices], batches: list[Batch], planned_tokens: int = 0) -> Item:
        """An item of batches on the host; without ``planned_tokens`` this process is the only one."""
        tokens = sum(batch.target_tokens for batch in batches)
        none = np.zeros(0, dtype=np.int64)
        targets = [batch.target.lengths.numpy() for batch in batches]
        sources = [
            np.zeros_like(target) if batch.source is None else batch.source.lengths.numpy()
            for batch, target in zip(batches, targets, strict=True)
        ]
        lengths = np.concatenate([none, *sources]), np.concatenate([none, *targets])
        return Item(epoch, number, indices, batches, tokens, planned_tokens or tokens, lengths)

    def to(self, device: torch.device) -> Item:
        """The item with its batches on another device; the copy does not wait for that device."""
        return replace(self, batches=[batch.to(device) for batch in self.batches])


class Feed:
    """Endless updates, epoch after epoch."""

    def __init__(self, config: Config, examples: Examples, group: Group | None = None) -> None:
        self.config, self.examples = config, examples
        self.sizes = np.maximum.reduce(examples.sides)  # [n] the longest side of each example
        self.group = group or Group()

    def plan(self, epoch: int) -> list[Update]:
        """The updates of one epoch, for all processes."""
        updates = plan(
            self.sizes,
            self.examples.targets,
            batch_tokens=self.config.training.batch_tokens,
            accumulate=self.config.training.accumulate,
            ranks=self.group.ranks,
            seed=self.config.seed,
            epoch=epoch,
            corpus_of=self.examples.corpus_of,
            shares=self.config.data.shares,
        )
        if not updates and not self.config.data.shares:
            raise RegardError("no training example is left after the checks: see the counts above")
        return updates

    def items(self, epoch: int, update: int) -> Iterator[Item]:
        """Endless items, from ``update`` of ``epoch`` on; the batches of each are made when it is asked for."""
        empty = 0
        while empty < 1000:
            updates = self.plan(epoch)
            for number in range(update, len(updates)):
                yield self._item(updates[number], epoch, number)
            empty = 0 if updates else empty + 1
            epoch, update = epoch + 1, 0
        raise RegardError("data.shares leave no example in 1000 epochs: raise them")

    def _item(self, update: Update, epoch: int, number: int) -> Item:
        indices = update.micro[self.group.rank]
        batches = [self.examples.batch(micro, epoch) for micro in indices]
        return Item.of(epoch, number, indices, batches, update.target_tokens)
