import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from regard.models import registry
from regard.training import rates
from regard.training.rates import matrix_rate, rate_for, work_of


@pytest.mark.parametrize("positions", registry.PARTS["positions"])
def test_work_is_the_formula(positions: str) -> None:
    """6 × Σ(weights of a product × tokens that pass it) + 12 × T × D for each attention layer and token."""
    width, feedforward, layers, vocabulary = 32, 48, 2, 300
    model = registry.options_from(
        {"width": width, "heads": 4, "feedforward": feedforward, "encoder_layers": layers, "decoder_layers": layers}
        | {"positions": positions}
    ).build(vocabulary)
    s, t = np.array([7, 20]), np.array([11, 5])
    attention, mlp = 4 * width * width, 2 * width * feedforward
    per_source = layers * (attention + mlp) + layers * 2 * width * width  # the memory's keys and values
    per_target = layers * (attention + mlp) + layers * 2 * width * width + vocabulary * width
    products = 6 * (per_source * s.sum() + per_target * t.sum())
    scores = 12 * width * layers * ((s * s).sum() + (t * t).sum() + (s * t).sum())
    assert work_of(model).of(s, t) == pytest.approx(products + scores, rel=1e-6)


def test_a_recurrent_model_has_work_too() -> None:
    model = registry.options_from({"architecture": "rnn", "width": 16}).build(300)
    assert work_of(model).of(np.array([5]), np.array([6])) > 6 * 300 * 16 * 6
    assert model.training


def test_the_matrix_rate_is_that_of_the_products() -> None:
    assert 1e8 < matrix_rate(torch.device("cpu"), sizes=(256,)) < 1e14
    assert matrix_rate(torch.device("cpu"), torch.bfloat16, sizes=(64,)) > 0


def test_a_unit_that_sleeps_at_first_is_measured_awake(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first products of AMX take three times as long; one size is slow, and one try is disturbed."""
    clock = [0.0]
    calls: Counter[int] = Counter()

    def product(left: torch.Tensor, right: torch.Tensor) -> None:
        size = len(left)
        calls[size] += 1
        rate = {64: 1e9, 128: 1e12}[size] / (3 if calls[size] <= 2 or calls[size] == 5 else 1)
        clock[0] += 2 * size**3 / rate

    monkeypatch.setattr(rates.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(rates, "_backends", lambda device: [product])
    assert matrix_rate(torch.device("cpu"), sizes=(64, 128)) == pytest.approx(1e12)


def test_a_share_is_never_of_less_than_the_models_own_shapes_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    model = registry.options_from({"architecture": "rnn", "width": 16}).build(300)
    monkeypatch.setattr(rates, "matrix_rate", lambda *_, **__: 1.0)
    assert rate_for(model, 50, torch.float32) > 1e6


def test_windows_that_do_not_fit_the_updates_are_refused() -> None:
    script = Path(__file__).resolve().parents[2] / "benchmarks" / "train_speed.py"
    done = subprocess.run([sys.executable, script, "--updates", "8"], capture_output=True, encoding="utf-8")
    assert done.returncode == 2 and "multiple of 10" in done.stderr and "Traceback" not in done.stderr
