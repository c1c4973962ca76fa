"""Products in training: by whatever backend, they are ``torch.nn.Linear``'s, and so are their gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kinds import on_processors
from torch import nn

from regard.accel.native import Native
from regard.accel.ways import switched_on
from regard.nn.linear import Linear

sizes = st.integers(1, 150)


@on_processors
@given(rows=st.integers(0, 200), inputs=sizes, outputs=sizes, seed=st.integers(0, 99))
def test_a_product_with_weights_that_change_is_a_product(
    kernels: Native, rows: int, inputs: int, outputs: int, seed: int
) -> None:
    torch.manual_seed(seed)
    x, weight, bias = torch.randn(rows, inputs), torch.randn(outputs, inputs), torch.randn(outputs)
    there = (x.double() @ weight.double().T + bias).float()
    gradient = torch.randn(rows, outputs)
    back = (gradient.double() @ weight.double()).float()
    # fp32 loses 2⁻²⁴ of what is summed at every sum.
    torch.testing.assert_close(kernels.product_once(x, weight, bias), there, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(kernels.product_once(x, weight, None), there - bias, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        kernels.product_once(gradient, weight, None, transposed=True), back, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("shape", [(70,), (2, 35), (1,)])
@pytest.mark.parametrize("bias", [True, False])
def test_outputs_and_gradients_are_pytorchs(threads: int, narrow: bool, shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    ours, theirs = Linear(40, 90, bias=bias), nn.Linear(40, 90, bias=bias)
    theirs.load_state_dict(ours.state_dict())
    x, weight = torch.randn(*shape, 40), torch.randn(*shape, 90)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    found = []
    for layer in (ours, theirs):
        copy = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow), switched_on():
            out = layer(copy)
        (out * weight).sum().backward()
        found.append([out.float(), copy.grad, *(parameter.grad for parameter in layer.parameters())])
    torch.set_num_threads(before)
    for one, other in zip(*found, strict=True):
        # In bf16 both round what they return; sums over rows differ in the last of their 8 bits.
        tolerance = {"rtol": 2**-6, "atol": 2**-4} if narrow else {"rtol": 1e-4, "atol": 1e-4}
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, **tolerance)


def test_in_evaluation_outputs_are_pytorchs_bit_for_bit() -> None:
    ours, theirs = Linear(40, 90).eval(), nn.Linear(40, 90)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(7, 40)
    with switched_on(), torch.no_grad():
        assert torch.equal(ours(x), theirs(x))
