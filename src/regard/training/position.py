"""Where a run stands, in plain numbers: the part of a checkpoint that is not tensors."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from regard.errors import RegardError
from regard.training.step import Statistics


@dataclass
class LogSums:
    """What the next line of the log is made of, summed since the last one."""

    loss: float = 0.0
    nll: float = 0.0
    target_tokens: int = 0
    gradient_norm: float = 0.0
    updates: int = 0

    def add(self, statistics: Statistics) -> None:
        self.loss += statistics.loss
        self.nll += statistics.nll
        self.target_tokens += statistics.target_tokens
        self.gradient_norm += statistics.gradient_norm
        self.updates += 1


@dataclass
class RunPosition:
    """Position and history of a run. It is saved with every checkpoint and read back bit for bit."""

    step: int = 0  # updates done, those included that were skipped
    epoch: int = 0
    update: int = 0  # updates done of this epoch
    target_tokens: int = 0  # seen in all
    sums: LogSums = field(default_factory=LogSums)
    skipped: int = 0  # updates left out because a loss or gradient was not finite
    skipped_in_a_row: int = 0
    validated: int = -1  # the step of the last validation
    scores: list[tuple[int, float]] = field(default_factory=list)  # (step, score) of each validation; more is better
    metrics_bytes: int = 0  # of metrics.jsonl, when this was saved
    corpus: str = ""  # fingerprint of the shards that the run has learnt from

    def add(self, statistics: Statistics, epoch: int, update: int) -> None:
        """One update more; its place is the ``update``-th of ``epoch``."""
        self.step, self.epoch, self.update = self.step + 1, epoch, update + 1
        self.target_tokens += statistics.target_tokens
        if statistics.skipped:
            self.skipped, self.skipped_in_a_row = self.skipped + 1, self.skipped_in_a_row + 1
            return
        self.skipped_in_a_row = 0
        self.sums.add(statistics)

    def best(self) -> tuple[int, float]:
        """(step, score) of the best validation, the earliest of equals."""
        return max(self.scores, key=lambda entry: entry[1], default=(0, -math.inf))

    def without_improvement(self) -> int:
        """Validations since the best one."""
        best = self.best()[0]
        return sum(step > best for step, _ in self.scores)

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def read(cls, values: dict[str, Any]) -> RunPosition:
        """From JSON values; a missing or unknown key is an error."""
        names = {item.name for item in dataclasses.fields(cls)}
        if odd := sorted(names ^ values.keys()):
            raise RegardError(f"record.json does not have the keys of this version: '{odd[0]}'")
        scores = [(int(step), float(score)) for step, score in values["scores"]]
        return cls(**{**values, "sums": LogSums(**values["sums"]), "scores": scores})
