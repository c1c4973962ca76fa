"""Attention by two products equals the equation, and is chosen for what it knows and computes sooner."""

from __future__ import annotations

import pytest
import torch
from layouts import LAYOUTS, B, H, K, Q, S

from regard.accel.products import products
from regard.nn.attention import attend
from regard.nn.layout import Layout
from regard.nn.packing import Packing


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "nothing seen"])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_plain_products_equal_the_equation(layout: str, biased: bool, dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    queries = S if layout == "causal" else Q
    who = LAYOUTS[layout](queries, S)
    bias = torch.randn(1, H, queries, S, dtype=dtype) if biased else None
    results = []
    for kernel in (products, attend):
        torch.manual_seed(1)
        shapes = [(B, H, queries, K), (B, H, S, K), (B, H, S, K + 2)]
        parts = [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]
        out = kernel(*parts, who, bias=bias, scale=0.3)
        (out * torch.randn_like(out)).sum().backward()
        results.append([out, *(p.grad for p in parts)])
    for ours, reference in zip(*results, strict=True):
        assert (ours - reference).abs().max() <= tolerance * reference.abs().max().clamp(min=1)


def test_two_products_are_chosen_by_size_and_by_fields() -> None:
    def chosen(queries: int, keys: int, grad: bool, who: Layout, groups: int = H, **options: float) -> bool:
        query = torch.randn(2, H, queries, K, requires_grad=grad)
        with torch.set_grad_enabled(grad):
            key, value = torch.randn(2, groups, keys, K), torch.randn(2, groups, keys, K)
            return products(query, key, value, who, **options) is not None

    everything = Layout()
    assert chosen(3, 200, False, everything), "a decoding step"
    assert chosen(40, 40, False, everything), "an encoder of short sentences"
    assert not chosen(300, 300, False, everything), "an encoder of long ones"
    assert chosen(40, 40, True, everything), "training on short sentences"
    assert not chosen(300, 300, True, everything), "the weights of long ones are not kept"
    assert not chosen(3, 5, False, everything, groups=2), "grouped heads"
    assert not chosen(3, 5, False, Layout.cross(torch.tensor([0, 5]), 5)), "somebody sees nothing"
    assert not chosen(3, 0, False, everything) and not chosen(0, 3, False, everything), "nothing to attend to"
    assert not chosen(3, 5, True, everything, dropout=0.1), "dropout on weights"
    packing = Packing.made(torch.tensor([2, 3]), 3)
    assert not chosen(5, 5, False, Layout(packing=packing, key_packing=packing)), "packed rows"
