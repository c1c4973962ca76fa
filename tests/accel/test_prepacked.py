"""Packed layers compute what their layers compute."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from regard.accel import native
from regard.accel.linear import available
from regard.accel.prepacked import PrepackedLinear, gains, prepack

TYPES = [dtype for dtype in (torch.float32, torch.bfloat16) if available(dtype)]
if not TYPES:
    pytest.skip("oneDNN gains nothing on this processor", allow_module_level=True)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("bias", [True, False])
@torch.inference_mode()
def test_a_prepacked_layer_computes_what_its_layer_computes(dtype: torch.dtype, bias: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(300, 70, bias=bias, dtype=dtype)
    narrow = PrepackedLinear(linear.weight, linear.bias)
    for rows in (0, 1, 9, 200):
        x = torch.randn(rows, 2, 300, dtype=dtype)
        # Sums of 300 products in another order; a bf16 result may be rounded to its neighbour.
        torch.testing.assert_close(narrow(x), linear(x), rtol=2**-7 if dtype == torch.bfloat16 else 1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("kernels", [True, False])
def test_the_weight_of_a_prepacked_layer_can_be_read(
    dtype: torch.dtype, kernels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not kernels:
        monkeypatch.setattr(native, "multiplying", lambda dtype: None)
    for outputs, inputs in ((70, 300), (1, 1), (33, 17)):
        linear = nn.Linear(inputs, outputs, dtype=dtype)
        layer = PrepackedLinear(linear.weight, linear.bias)
        assert (layer.matrix is None) != (kernels and native.library() is not None)
        assert layer.weight.dtype == dtype and torch.equal(layer.weight, linear.weight)


class Doubled(nn.Linear):
    """A linear layer that computes something else."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


def test_layers_of_unknown_classes_are_not_replaced() -> None:
    table = nn.Linear(512, 5000, bias=False)
    model = nn.ModuleDict({"known": nn.Linear(512, 512), "other": Doubled(512, 512), "table": table})
    assert gains(table.weight)
    prepack(model, table.weight)
    assert [type(child) for child in model.values()] == [PrepackedLinear, Doubled, nn.Linear]
