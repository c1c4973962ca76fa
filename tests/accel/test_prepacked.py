"""Packed layers compute what their layers compute, and a twin leaves its model as it is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from regard.accel import prepacked as packed
from regard.accel.linear import available
from regard.decoding.engine import decode
from regard.decoding.search import Search
from regard.models.base import Share
from regard.models.transformer import Transformer
from regard.nn.sequences import Tokens
from regard.text.settings import TextSettings

SETTINGS = TextSettings()
TYPES = [dtype for dtype in (torch.float32, torch.bfloat16) if available(dtype)]
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


def model(dtype: torch.dtype, share: Share = "all") -> Any:
    torch.manual_seed(0)
    options = Transformer(width=packed.WIDE, heads=4, feedforward=512, encoder_layers=1, decoder_layers=2, share=share)
    return options.build(60).to(dtype).eval()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("share", ["all", "none"])
@torch.inference_mode()
def test_a_twin_gives_the_same_logits_and_shares_its_tables(dtype: torch.dtype, share: Share) -> None:
    own = model(dtype, share)
    names = list(own.state_dict())
    twin = packed.twin(own)
    assert list(own.state_dict()) == names and own.prepared_output is None
    kinds = {type(module) for module in twin.modules()}
    assert packed.PackedLinear in kinds and (nn.Linear in kinds) == (share == "none")  # the output table is to be read
    assert twin.output_table()[0] is own.output_table()[0]
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


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("beam", [1, 3])
def test_much_text_is_translated_by_the_twin_as_by_the_model(precision: str, beam: int) -> None:
    own = model(torch.float32)
    if precision == "int8":
        own.to_int8()
    elif precision == "bf16":
        if torch.bfloat16 not in TYPES:
            pytest.skip("this processor does not multiply bf16")
        own.to(torch.bfloat16)
    torch.manual_seed(1)
    inputs = [torch.randint(4, 60, (int(n),)).tolist() for n in torch.randint(1, 12, (30,))]
    search = Search(beam=beam, max_extra=4)
    expected, found = (list(decode(m, inputs, SETTINGS, search)) for m in (own, packed.twin(own)))
    # Of a model that has learnt nothing many outputs are nearly as good as the best: scores are compared, and in fp32
    # the outputs too.
    tolerance = 1e-4 if precision == "fp32" else 0.05
    for one, other in zip(expected, found, strict=True):
        assert one.hypotheses[0].normalized == pytest.approx(other.hypotheses[0].normalized, rel=tolerance)
        assert precision != "fp32" or one.hypotheses[0].ids == other.hypotheses[0].ids
