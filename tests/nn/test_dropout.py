"""Dropout: the rate, the scale, the gradient, the generator; and the fused residual."""

from __future__ import annotations

import contextlib

import pytest
import torch

from regard.accel.ways import switched_on
from regard.nn.dropout import Dropout, cpu_mask


@pytest.mark.parametrize("p", [0.1, 0.25, 0.3, 0.5, 0.9, 0.999])
def test_rate_and_scale(p: float) -> None:
    torch.manual_seed(0)
    like, rates = torch.empty(1000, 99), []
    for _ in range(40):
        mask = cpu_mask(like, p)
        kept = mask != 0
        torch.testing.assert_close(mask[kept], torch.full_like(mask[kept], 1 / (1 - p)))
        rates.append(1 - kept.double().mean().item())
    # 4 million draws, and 40 of the threshold: the mean lies on p, and no call is farther off than 1/256.
    assert sum(rates) / 40 == pytest.approx(p, abs=0.002)
    assert max(abs(rate - p) for rate in rates) < 1 / 256 + 0.005


def test_each_number_is_dropped_alike() -> None:
    torch.manual_seed(0)
    like = torch.empty(17, 3)
    mean = sum((cpu_mask(like, 0.3) == 0).double() for _ in range(3000)) / 3000
    assert (mean - 0.3).abs().max() < 0.05


def test_gradient_is_the_mask() -> None:
    torch.manual_seed(0)
    dropout, x = Dropout(0.4), torch.ones(30, 8, requires_grad=True)
    out = dropout(x)
    out.sum().backward()
    assert torch.equal(x.grad, out.detach())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("fast", [False, True])
def test_with_a_residual_it_is_the_sum(dtype: torch.dtype, fast: bool) -> None:
    dropout = Dropout(0.4)
    x, residual = (torch.randn(30, 8, dtype=dtype, requires_grad=True) for _ in range(2))
    torch.manual_seed(1)
    with switched_on() if fast else contextlib.nullcontext():
        together = dropout(x, residual)
    torch.manual_seed(1)
    apart = residual + dropout(x)
    loose = {"rtol": 0.02, "atol": 0.02} if dtype == torch.bfloat16 else {}  # one rounding in place of two
    torch.testing.assert_close(together, apart, **loose)
    weight = torch.randn(30, 8, dtype=dtype)
    ours = torch.autograd.grad((together * weight).sum(), [x, residual])
    theirs = torch.autograd.grad((apart * weight).sum(), [x, residual])
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, **loose)


def test_only_torchs_generator_and_nothing_when_off() -> None:
    dropout, x = Dropout(0.5), torch.randn(100, 7)
    torch.manual_seed(3)
    first = dropout(x)
    torch.manual_seed(3)
    assert torch.equal(first, dropout(x))
    assert not torch.equal(first, dropout(x))
    before = torch.get_rng_state()
    assert dropout.eval()(x) is x and Dropout(0.0)(x) is x
    assert torch.equal(Dropout(0.0)(x, x), x + x)
    assert torch.equal(before, torch.get_rng_state())


def test_transposed_and_empty_inputs() -> None:
    torch.manual_seed(0)
    x = torch.ones(8, 5).T
    assert set(Dropout(0.5)(x).unique().tolist()) <= {0.0, 2.0}
    assert Dropout(0.5)(torch.empty(0, 4)).shape == (0, 4)


def test_impossible_rates_are_refused() -> None:
    for p in (-0.1, 1.0):
        with pytest.raises(ValueError, match="at least 0 and below 1"):
            Dropout(p)
