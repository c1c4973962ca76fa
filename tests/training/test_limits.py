import numpy as np
import pytest
import torch

from regard.models import registry
from regard.training.limits import matrix_rate, work_of


@pytest.mark.parametrize("positions", ["sinusoidal", "rotary", "relative_bias"])
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
    rate = matrix_rate(torch.device("cpu"), size=256, runs=3)
    assert 1e8 < rate < 1e14
    assert matrix_rate(torch.device("cpu"), torch.bfloat16, size=64, runs=1) > 0
