"""Packed layers compute what their layers compute, and a twin leaves its model as it is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from regard.models.transformer import Transformer
from regard.nn import packed
from regard.nn.layout import Tokens

TYPES = [dtype for dtype in (torch.float32, torch.bfloat16) if packed.available(dtype)]
if not TYPES:
    pytest.skip("oneDNN gains nothing on this processor", allow_module_level=True)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("bias", [True, False])
@torch.inference_mode()
def test_a_packed_layer_computes_what_its_layer_computes(dtype: torch.dtype, bias: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(300, 70, bias=bias, dtype=dtype)
    narrow = packed.PackedLinear(linear.weight, linear.bias)
    for rows in (0, 1, 9, 200):
        x = torch.randn(rows, 2, 300, dtype=dtype)
        # Sums of 300 products in another order; a bf16 result may be rounded to its neighbour.
        torch.testing.assert_close(narrow(x), linear(x), rtol=2**-7 if dtype == torch.bfloat16 else 1e-4, atol=1e-4)


def model(dtype: torch.dtype) -> Any:
    torch.manual_seed(0)
    options = Transformer(width=packed.WIDE, heads=4, feedforward=512, encoder_layers=1, decoder_layers=2)
    return options.build(60).to(dtype).eval()


@pytest.mark.parametrize("dtype", TYPES)
@torch.inference_mode()
def test_a_twin_gives_the_same_logits_and_shares_its_tables(dtype: torch.dtype) -> None:
    own = model(dtype)
    names = list(own.state_dict())
    twin = packed.twin(own)
    assert list(own.state_dict()) == names and own.prepared_output is None
    kinds = {type(module) for module in twin.modules()}
    assert packed.PackedLinear in kinds and nn.Linear not in kinds
    assert twin.source_embedding.table.weight is own.source_embedding.table.weight
    source, target = (Tokens(torch.randint(4, 60, (3, n)), torch.full((3,), n)) for n in (7, 5))
    one, other = (m.logits(m(target, m.encode(source)).hidden).float() for m in (own, twin))
    # In bf16 an intermediate number may be rounded to its neighbour, 2⁻⁸ away, in each of three layers.
    difference = (one - other).abs().max() / one.abs().max()
    assert difference < (0.05 if dtype == torch.bfloat16 else 1e-5)


def test_int8_layers_stand_in_the_twin_too() -> None:
    own = model(torch.float32)
    own.to_int8()
    twin = packed.twin(own)
    assert twin.prepared_output is own.prepared_output
