"""The batches of every update, made from the plan; the position in the data is (epoch, update) and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from regard.config import Config
from regard.data.batch import Batch, collate
from regard.data.plan import Indices, Update, plan
from regard.data.shards import Corpus
from regard.errors import RegardError
from regard.text.dropout import SubwordDropout
from regard.text.settings import TextSettings
from regard.text.tokenizer import Tokenizer
from regard.training.distributed import Group
from regard.training.streams import stream_key


@dataclass(frozen=True)
class Item:
    """This process's batches of one update.

    ``target_tokens`` counts those of its batches, ``planned_tokens`` those of all processes. ``lengths`` are
    (source [n], target [n]) of its n pairs, without padding, marks included.
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
        sources = [batch.source.lengths.numpy() for batch in batches if batch.source is not None]
        targets = [batch.target.lengths.numpy() for batch in batches]
        lengths = np.concatenate([none, *sources]), np.concatenate([none, *targets])
        return Item(epoch, number, indices, batches, tokens, planned_tokens or tokens, lengths)

    def to(self, device: torch.device) -> Item:
        """The item with its batches on another device; the copy does not wait for that device."""
        return replace(self, batches=[batch.to(device) for batch in self.batches])


class Feed:
    """Endless updates, epoch after epoch."""

    def __init__(
        self,
        config: Config,
        corpus: Corpus,
        tokenizers: tuple[Tokenizer, Tokenizer],
        settings: TextSettings,
        group: Group | None = None,
    ) -> None:
        self.config, self.corpus, self.settings = config, corpus, settings
        self.group = group or Group()
        self.longest = max(int(lengths.max(initial=0)) for lengths in corpus.lengths)
        self.dropouts: list[SubwordDropout] = []
        if config.data.subword_dropout:
            # A stream for each side: with one, a name on both sides would always be cut alike.
            self.dropouts = [
                SubwordDropout(tokenizer, config.data.subword_dropout, stream_key(config.seed, f"subwords {side}"))
                for side, tokenizer in zip(("source", "target"), tokenizers, strict=True)
            ]

    def plan(self, epoch: int) -> list[Update]:
        """The updates of one epoch, for all processes."""
        updates = plan(
            *self.corpus.lengths,
            batch_tokens=self.config.training.batch_tokens,
            accumulate=self.config.training.accumulate,
            ranks=self.group.ranks,
            seed=self.config.seed,
            epoch=epoch,
            corpus_of=self.corpus.corpus_of,
            shares=self.config.data.shares,
        )
        if not updates and not self.config.data.shares:
            raise RegardError("no training pair is left after the checks: see the counts above")
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
        raise RegardError("data.shares leave no pair in 1000 epochs: raise them")

    def batch(self, indices: Indices, epoch: int) -> Batch:
        """The pairs ``indices`` as tensors; subword dropout cuts their words anew for each epoch."""
        sources, targets = [], []
        for index in map(int, indices):
            sources.append(self._side(0, index, epoch, self.corpus.source_ids(index)))
            targets.append(self._side(1, index, epoch, self.corpus.target_ids(index)))
        return collate(sources, targets, self.settings)

    def _side(
        self, side: int, index: int, epoch: int, ids: Sequence[int] | NDArray[np.integer]
    ) -> Sequence[int] | NDArray[np.integer]:
        if not self.dropouts:
            return ids
        text = self.corpus.target_text(index) if side else self.corpus.source_text(index)
        cut = self.dropouts[side].encode(text, epoch, index)
        # Keep the usual subwords if dropout gives more than any text has: the pre-flight tried no longer text.
        return cut if len(cut) <= self.longest else ids

    def _item(self, update: Update, epoch: int, number: int) -> Item:
        indices = update.micro[self.group.rank]
        batches = [self.batch(micro, epoch) for micro in indices]
        return Item.of(epoch, number, indices, batches, update.target_tokens)
