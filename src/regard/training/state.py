"""All that a run needs to go on as if nothing had happened."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass
class TrainingState:
    """One moment of a training, between two updates: tensors and JSON values only.

    Random streams need no state of their own: each is seeded anew from (seed, purpose, update, micro-batch, rank), so
    that ``step`` and ``position`` say where they stand. Two states are the same when everything but ``clock`` is equal.
    """

    step: int  # updates done; the checkpoint's name
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]  # as optimizer_tensors names them
    ema: dict[str, Tensor] = field(default_factory=dict)  # the moving average of the weights; empty where it is off
    # Position in the data, running sums of the log, validations and the best of them, skipped steps, bytes of
    # metrics.jsonl, fingerprints of corpus and configuration: see position.py.
    position: dict[str, Any] = field(default_factory=dict)
    clock: dict[str, float] = field(default_factory=dict)  # seconds trained: the one thing that may differ between runs
