"""The state from which a run resumes exactly."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass
class TrainingState:
    """The state of a training between two updates: tensors and JSON values only.

    Random streams have no state: each is seeded from (seed, purpose, update, micro-batch, rank). Two states are the
    same if everything but ``clock`` is equal.
    """

    step: int  # updates done, as in the checkpoint's name
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]  # as optimizer_tensors names them
    ema: dict[str, Tensor] = field(default_factory=dict)  # the moving average of the weights; empty where it is off
    # ``RunPosition`` as JSON values (position.py).
    position: dict[str, Any] = field(default_factory=dict)
    clock: dict[str, float] = field(default_factory=dict)  # seconds trained
