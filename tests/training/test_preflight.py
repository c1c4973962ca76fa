"""The estimate of a run's time, of one that is resumed too."""

from __future__ import annotations

import pytest

from regard.config import TrainingConfig
from regard.training.preflight import Estimate


@pytest.mark.parametrize(
    ("steps", "minutes", "done", "elapsed", "expected"),
    [
        (61, 0.0, 0, 0.0, "1 min 01 s for 61"),
        (61, 0.0, 60, 64.0, "1 s for 1"),
        (1000, 1.0, 0, 0.0, "1 min 00 s for 60"),
        (1000, 1.0, 50, 50.0, "10 s for 10"),
        (60, 1.0, 60, 80.0, "0 s for 0"),
    ],
)
def test_the_updates_that_are_left_are_counted(
    steps: int, minutes: float, done: int, elapsed: float, expected: str
) -> None:
    estimate = Estimate(bytes=2**20, seconds_per_update=1.0, sentences=4, source_length=0, target_length=5)
    training = TrainingConfig(steps=steps, minutes=minutes)
    assert f": {expected}, without validation" in estimate.lines(training, done, elapsed)[1]
