"""R-Drop's fused loss against the formula in plain PyTorch, loss and gradients."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from regard.nn.loss import linear_cross_entropy
from regard.nn.rdrop import linear_rdrop


def _inputs() -> tuple[torch.Tensor, ...]:
    torch.manual_seed(1)
    first, second = (torch.randn(23, 8, dtype=torch.float64, requires_grad=True) for _ in range(2))
    weight = torch.randn(19, 8, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(19, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 19, (23,))
    labels[[3, 7]] = -100
    return first, second, weight, bias, labels


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("chunk", [0, 5])
def test_loss_and_gradients_equal_the_formula(smoothing: float, chunk: int) -> None:
    first, second, weight, bias, labels = _inputs()
    alpha = 3.0
    real = labels >= 0
    p, q = ((x[real] @ weight.T + bias).log_softmax(1) for x in (first, second))
    ce = [
        F.cross_entropy(x[real] @ weight.T + bias, labels[real], label_smoothing=smoothing, reduction="sum")
        for x in (first, second)
    ]
    divergence = F.kl_div(q, p, log_target=True, reduction="sum") + F.kl_div(p, q, log_target=True, reduction="sum")
    expected = sum(ce) / 2 + alpha / 4 * divergence
    inputs = (first, second, weight, bias)
    wanted = torch.autograd.grad(expected, inputs)

    loss, nll = linear_rdrop(first, second, weight, labels, bias=bias, smoothing=smoothing, alpha=alpha, chunk=chunk)
    found = torch.autograd.grad(loss, inputs)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(
        nll, (F.nll_loss(p, labels[real], reduction="sum") + F.nll_loss(q, labels[real], reduction="sum")) / 2
    )
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b)


def test_two_equal_passes_give_the_plain_loss() -> None:
    first, _, weight, bias, labels = _inputs()
    pair = linear_rdrop(first, first, weight, labels, bias=bias, smoothing=0.1, alpha=5.0)
    plain = linear_cross_entropy(first, weight, labels, bias=bias, smoothing=0.1)
    torch.testing.assert_close(pair[0], plain[0])
    torch.testing.assert_close(pair[1], plain[1])
