"""Int8 layers: near what they stand for, the same in any batch, and without overflow where everything is largest."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kinds import PROCESSORS
from torch import nn

from regard.accel import native
from regard.accel.int8 import Int8Linear, available, in_int8
from regard.accel.thresholds import INT8_INPUTS

if not available():
    pytest.skip("PyTorch has no integer products here", allow_module_level=True)
torch.set_num_threads(1)


@pytest.fixture(params=["by operators", *PROCESSORS], scope="module", autouse=True)
def kernels(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Everything is shown for all ways."""
    found = PROCESSORS.get(request.param)
    if found is None and request.param in PROCESSORS:
        pytest.skip("there is no C compiler here")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "library", lambda: found)
        yield found is not None


def layer(inputs: int, outputs: int, seed: int = 0) -> tuple[nn.Linear, Int8Linear]:
    torch.manual_seed(seed)
    linear = nn.Linear(inputs, outputs)
    return linear, Int8Linear(linear.weight, linear.bias)


@torch.inference_mode()
@given(
    inputs=st.integers(1, 80), outputs=st.integers(1, 80), rows=st.integers(0, 9), seed=st.integers(0, 99),
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
)  # fmt: skip
def test_outputs_are_near_those_of_the_layer(inputs: int, outputs: int, rows: int, seed: int, scale: float) -> None:
    linear, narrow = layer(inputs, outputs, seed)
    x = torch.randn(2, rows, inputs) * scale
    expected = linear(x)
    got = narrow(x)
    assert got.shape == expected.shape
    # Half a step of each activation and of each weight, summed as if all had the same sign.
    weight, largest = linear.weight.abs(), x.abs().amax(-1, keepdim=True)
    bound = x.abs() @ torch.ones_like(weight).T * weight.amax(1) / 126 + largest / 254 * weight.sum(1)
    assert bool(((got - expected).abs() <= 1.02 * bound + 1e-6 * scale + 1e-6).all())


@torch.inference_mode()
def test_a_row_does_not_see_the_others() -> None:
    _, narrow = layer(96, 64)
    x = torch.randn(40, 96)
    x[7] *= 1e4
    together = narrow(x)
    for row in range(40):
        assert torch.equal(narrow(x[row : row + 1])[0], together[row])


@torch.inference_mode()
def test_the_largest_numbers_do_not_overflow() -> None:
    linear = nn.Linear(512, 8, bias=False)
    for sign in (1.0, -1.0):
        nn.init.constant_(linear.weight, sign)
        narrow = Int8Linear(linear.weight, None)
        torch.testing.assert_close(narrow(torch.ones(3, 512)), torch.full((3, 8), 512.0 * sign), rtol=1e-5, atol=0)


def test_the_weight_that_the_bytes_stand_for_can_be_read() -> None:
    for inputs, outputs in ((300, 70), (1, 1), (17, 33)):
        linear, narrow = layer(inputs, outputs)
        step = linear.weight.abs().amax(1, keepdim=True) / 63
        assert narrow.weight.shape == linear.weight.shape
        assert bool(((narrow.weight - linear.weight).abs() <= 0.501 * step).all())


@torch.inference_mode()
def test_a_row_of_zeros_gives_the_bias() -> None:
    linear, narrow = layer(16, 4)
    assert torch.equal(narrow(torch.zeros(2, 16)), linear.bias.expand(2, 4))


def test_every_linear_layer_that_gains_is_replaced(kernels: bool) -> None:
    inner = nn.ModuleDict({"inner": nn.Linear(2 * INT8_INPUTS, 4), "narrow": nn.Linear(INT8_INPUTS - 1, 4)})
    model = nn.Sequential(nn.Linear(INT8_INPUTS, 4), inner, nn.LayerNorm(4))
    in_int8(model)
    kinds = [type(module) for module in model.modules() if isinstance(module, nn.Linear | Int8Linear)]
    assert kinds == [Int8Linear, Int8Linear, Int8Linear if kernels else nn.Linear]


def test_kernels_that_do_not_multiply_bytes_leave_narrow_layers_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    found = native.library()
    if found is None:
        pytest.skip("this is by operators")
    monkeypatch.setitem(found.multiplies, torch.int8, False)  # as with AVX-512, but without VNNI
    model = nn.Sequential(nn.Linear(INT8_INPUTS, 4), nn.Linear(INT8_INPUTS - 1, 4))
    in_int8(model)
    assert [type(module) for module in model] == [Int8Linear, nn.Linear]


@torch.inference_mode()
def test_outputs_have_the_type_of_the_inputs_or_the_one_that_is_asked_for() -> None:
    linear, narrow = layer(96, 64)
    x = torch.randn(5, 96).bfloat16()
    assert narrow(x).dtype == torch.bfloat16
    wide = Int8Linear(linear.weight, linear.bias, torch.float32)(x)
    assert wide.dtype == torch.float32
    torch.testing.assert_close(narrow(x), wide.bfloat16())
