import math

import pytest

from regard.config import TrainingConfig
from regard.data.random_streams import stream_key
from regard.training.schedule import learning_rate, peak_rate


@pytest.mark.parametrize("step", [1, 2, 3999, 4000, 4001, 100_000])
def test_the_default_is_equation_3(step: int) -> None:
    wanted = 512**-0.5 * min(step**-0.5, step * 4000**-1.5)
    assert learning_rate(step, TrainingConfig(), 512) == pytest.approx(wanted, rel=1e-12)


def test_the_peak_is_at_the_end_of_the_warm_up() -> None:
    training = TrainingConfig(learning_rate=0.005, warmup_steps=100)
    assert peak_rate(training, 512) == 0.005
    rates = [learning_rate(step, training, 512) for step in range(1, 300)]
    assert max(rates) == rates[99] == 0.005
    assert rates[0] == pytest.approx(0.00005)


def test_cosine_ends_at_zero_and_constant_stays() -> None:
    cosine = TrainingConfig(schedule="cosine", learning_rate=1.0, warmup_steps=10, steps=110)
    assert learning_rate(10, cosine, 8) == pytest.approx(1.0)
    assert learning_rate(60, cosine, 8) == pytest.approx(0.5)
    assert learning_rate(110, cosine, 8) == pytest.approx(0.0)
    assert learning_rate(1000, cosine, 8) == pytest.approx(0.0)
    constant = TrainingConfig(schedule="constant", learning_rate=1.0, warmup_steps=0)
    assert learning_rate(1, constant, 8) == learning_rate(10**6, constant, 8) == 1.0
    assert math.isfinite(peak_rate(TrainingConfig(schedule="constant", warmup_steps=0), 8))


def test_streams_differ_in_every_part_of_their_key() -> None:
    keys = [stream_key(1, "dropout", 1, 0), stream_key(2, "dropout", 1, 0), stream_key(1, "weights", 1, 0)]
    keys += [stream_key(1, "dropout", 1, 1), stream_key(1, "dropout", 10), stream_key(1, "dropout", 1, 0, 0)]
    assert len(set(keys)) == len(keys)
    assert all(0 <= key < 2**63 for key in keys)
