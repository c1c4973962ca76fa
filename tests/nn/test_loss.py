"""The chunked loss equals cross entropy on whole logits, loss and gradients."""

from __future__ import annotations

import contextlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kinds import compiled, on_processors
from torch.nn import functional as F

from regard.accel.fused import in_one_pass
from regard.accel.native import Native
from regard.accel.ways import switched_on
from regard.nn.loss import default_chunk, linear_cross_entropy, softmax_gradient

M, D, V = 50, 12, 31


def inputs(dtype: torch.dtype, ignored: int) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    hidden = torch.randn(M, D, dtype=dtype, requires_grad=True)
    weight = torch.randn(V, D, dtype=dtype, requires_grad=True)
    bias = torch.randn(V, dtype=dtype, requires_grad=True)
    labels = torch.randint(0, V, (M,))
    labels[torch.randperm(M)[:ignored]] = -100
    return hidden, weight, bias, labels


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("ignored", [0, 13, M])
@pytest.mark.parametrize("chunk", [0, 7])
@pytest.mark.parametrize("way", ["plain", "switched on", "in one pass"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_loss_and_gradients(
    smoothing: float,
    with_bias: bool,
    ignored: int,
    chunk: int,
    way: str,
    dtype: torch.dtype,
    tolerance: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hidden, weight, bias, labels = inputs(dtype, ignored)
    used, count = bias if with_bias else None, M - ignored if chunk else None
    with switched_on() if way == "switched on" else contextlib.nullcontext():
        if way == "in one pass":
            monkeypatch.setattr(softmax_gradient, "ways", (in_one_pass,))
        loss, nll = linear_cross_entropy(
            hidden, weight, labels, bias=used, smoothing=smoothing, chunk=chunk, count=count
        )
    (loss / 3).backward()
    ours = [hidden.grad, weight.grad, *([bias.grad] if with_bias else [])]
    assert not nll.requires_grad

    hidden, weight, bias, labels = inputs(dtype, ignored)
    logits = F.linear(hidden, weight, bias if with_bias else None)
    expected = F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="sum")
    (expected / 3).backward()
    theirs = [hidden.grad, weight.grad, *([bias.grad] if with_bias else [])]
    torch.testing.assert_close(loss, expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(nll, F.cross_entropy(logits, labels, reduction="sum"), rtol=tolerance, atol=tolerance)
    for one, other in zip(ours, theirs, strict=True):
        assert (one - other).abs().max() <= tolerance * other.abs().max()


def test_large_logits_stay_finite() -> None:
    hidden = torch.tensor([[1.0], [1.0]], requires_grad=True)
    weight = torch.tensor([[3e4], [-3e4], [0.0]], requires_grad=True)
    loss, nll = linear_cross_entropy(hidden, weight, torch.tensor([0, 1]))
    assert nll.item() == pytest.approx(6e4) and loss.item() == pytest.approx(6e4)
    loss.backward()
    assert hidden.grad is not None and hidden.grad.isfinite().all()


def test_bf16_autocast_is_near_fp32() -> None:
    hidden, weight, bias, labels = inputs(torch.float32, 5)
    exact, _ = linear_cross_entropy(hidden, weight, labels, bias=bias, smoothing=0.1)
    exact.backward()
    reference = [t.grad.clone() for t in (hidden, weight, bias)]
    for t in (hidden, weight, bias):
        t.grad = None
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = linear_cross_entropy(hidden, weight, labels, bias=bias, smoothing=0.1, chunk=16)
    assert loss.dtype == torch.float32
    loss.backward()
    assert loss.item() == pytest.approx(exact.item(), rel=0.01)
    for tensor, other in zip((hidden, weight, bias), reference, strict=True):
        assert tensor.grad.dtype == torch.float32
        assert (tensor.grad - other).abs().max() <= 0.05 * other.abs().max()


def test_without_gradients() -> None:
    hidden, weight, _, labels = inputs(torch.float32, 5)
    with torch.no_grad():
        loss, _ = linear_cross_entropy(hidden, weight, labels, smoothing=0.1)
    expected = F.cross_entropy(hidden @ weight.T, labels, label_smoothing=0.1, reduction="sum")
    torch.testing.assert_close(loss, expected.detach())


def test_chunks_fit_a_cache_on_cpu() -> None:
    for vocabulary in (100, 8000, 37000):
        assert default_chunk(vocabulary, torch.device("cpu"), torch.float32) % 64 == 0
    assert default_chunk(8000, torch.device("cpu"), torch.float32) == 512
    assert default_chunk(37000, torch.device("cpu"), torch.float32) == 512, "a chunk costs the table's gradient a pass"


@on_processors
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@given(rows=st.integers(1, 5), width=st.integers(1, 100), seed=st.integers(0, 99))
def test_the_native_gradient_of_a_softmax_is_that_of_the_operators(
    kernels: Native, dtype: torch.dtype, rows: int, width: int, seed: int
) -> None:
    torch.manual_seed(seed)
    logits, labels = 10 * torch.randn(rows, width), torch.randint(0, width, (rows,))
    logits = logits.to(dtype)
    log_p = logits.double().log_softmax(1)
    expected = log_p.exp() - 0.9 * F.one_hot(labels, width)
    label_logits = logits.double().gather(1, labels[:, None]).sum().item()
    nll, found = kernels.softmax_gradient(logits, labels, 0.9)
    assert nll == pytest.approx(F.nll_loss(log_p, labels, reduction="sum").item(), rel=1e-5, abs=1e-4)
    assert found == pytest.approx(label_logits, rel=1e-6, abs=1e-6)
    # Numbers up to 1, of which bf16 keeps 8 bits.
    torch.testing.assert_close(logits.double(), expected, rtol=0, atol=1e-6 if dtype == torch.float32 else 2**-8)


@compiled
def test_a_label_that_is_none_is_refused() -> None:
    hidden, weight, _, labels = inputs(torch.float32, 0)
    labels[3] = V
    with switched_on(), pytest.raises(IndexError):
        linear_cross_entropy(hidden, weight, labels)
