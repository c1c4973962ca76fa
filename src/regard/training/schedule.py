"""The learning rate as a pure function of the update."""

from __future__ import annotations

import math

from regard.config import TrainingConfig


def peak_rate(training: TrainingConfig, width: int) -> float:
    """The rate at the end of the warm-up; a configured 0 means the paper's (width · warmup_steps)^-0.5."""
    return training.learning_rate or (width * max(training.warmup_steps, 1)) ** -0.5


def learning_rate(step: int, training: TrainingConfig, width: int) -> float:
    """The rate of update ``step`` (the first is 1).

    Equation (3) of the paper, D^-0.5 · min(step^-0.5, step · warmup^-1.5), is "inverse_sqrt" with a configured peak of
    0: a linear rise to the peak, (D · warmup)^-0.5, then a fall with the inverse square root.
    """
    peak, warmup = peak_rate(training, width), training.warmup_steps
    if step < warmup:
        return peak * step / warmup
    match training.schedule:
        case "inverse_sqrt":
            return peak * math.sqrt(warmup / step)
        case "cosine":
            done = (step - warmup) / max(training.steps - warmup, 1)
            return peak * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
        case "constant":
            return peak
