"""The position of a run in plain numbers: the part of a checkpoint that is not tensors (``record.json``)."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from regard.errors import RegardError
from regard.training.state import TrainingState
from regard.training.step import Statistics


@dataclass
class LogSums:
    """Sums over the updates since the last line of the log."""

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
    """Position and history of a run, saved with every checkpoint and read back bit for bit."""

    step: int = 0  # updates done, skipped ones included
    epoch: int = 0
    update: int = 0  # updates done in this epoch
    target_tokens: int = 0  # seen in all
    sums: LogSums = field(default_factory=LogSums)
    skipped: int = 0  # updates whose loss or gradient was not finite
    skipped_in_a_row: int = 0
    validated: int = -1  # the step of the last validation
    scores: list[tuple[int, float]] = field(default_factory=list)  # (step, score) of each validation; higher is better
    metrics_bytes: int = 0  # size of metrics.jsonl at this position
    corpus: str = ""  # fingerprint of the training shards

    def add(self, statistics: Statistics, epoch: int, update: int) -> None:
        """Count one update, number ``update`` (from 0) of ``epoch``."""
        self.step, self.epoch, self.update = self.step + 1, epoch, update + 1
        self.target_tokens += statistics.target_tokens
        if statistics.skipped:
            self.skipped, self.skipped_in_a_row = self.skipped + 1, self.skipped_in_a_row + 1
            return
        self.skipped_in_a_row = 0
        self.sums.add(statistics)

    def best(self) -> tuple[int, float]:
        """(step, score) of the best validation; of equals the earliest."""
        return max(self.scores, key=lambda entry: entry[1], default=(0, -math.inf))

    def without_improvement(self) -> int:
        """Validations since the best one."""
        best = self.best()[0]
        return sum(step > best for step, _ in self.scores)

    def plain(self) -> dict[str, Any]:
        """The position as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def read(cls, values: dict[str, Any]) -> RunPosition:
        """The position from JSON values; a missing or unknown key is an error."""
        names = {item.name for item in dataclasses.fields(cls)}
        if odd := sorted(names ^ values.keys()):
            raise RegardError(f"record.json does not have the keys of this version: '{odd[0]}'")
        scores = [(int(step), float(score)) for step, score in values["scores"]]
        return cls(**{**values, "sums": LogSums(**values["sums"]), "scores": scores})


def position_of(state: TrainingState) -> RunPosition:
    """The position in a checkpoint; an error if it is incomplete, since a checkpoint can be made by hand."""
    try:
        position = RunPosition.read(state.position)
        whole = all(isinstance(getattr(position, name), int) for name in ("step", "epoch", "update", "metrics_bytes"))
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise RegardError(
            f"the checkpoint of step {state.step} cannot be read: {' '.join(str(error).split())}"
        ) from None
    if not whole or position.step != state.step or "seconds" not in state.clock:
        raise RegardError(f"the checkpoint of step {state.step} cannot be read: its position or its clock is missing")
    return position
