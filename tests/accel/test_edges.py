"""Edges of the faster ways and of prepared models, each of which once was a fault."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from regard.accel.ways import switched_on
from regard.nn.linear import Linear


@pytest.mark.parametrize("shape", [(8,), (0, 8), (2, 0, 8)])
@pytest.mark.parametrize("bf16", [False, True])
def test_a_linear_layer_in_training_takes_vectors_and_no_rows(shape, bf16):
    layer, x = Linear(8, 5), torch.randn(shape, requires_grad=True)
    with switched_on(), torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
        out = layer(x)
    out.float().sum().backward()
    assert out.shape == (*shape[:-1], 5)
    assert x.grad is not None and x.grad.shape == x.shape


def test_autocast_leaves_fp64_alone_on_the_faster_way_too():
    layer, x = Linear(8, 5).double(), torch.randn(3, 8, dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        plain = layer(x)
        with switched_on():
            faster = layer(x)
    assert torch.equal(plain, faster)
