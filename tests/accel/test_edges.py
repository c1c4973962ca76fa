"""Edges of the faster ways and of prepared models, each of which once was a fault."""

from __future__ import annotations

import copy
from contextlib import nullcontext

import pytest
import torch

from regard.accel.prepared import prepare
from regard.accel.ways import switched_on
from regard.models.registry import options_from
from regard.nn.linear import Linear
from regard.nn.sequences import Tokens


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


def _model(**options):
    sizes = {"width": 64, "heads": 4, "feedforward": 64, "encoder_layers": 2, "decoder_layers": 2, "dropout": 0.0}
    torch.manual_seed(0)
    return options_from({**sizes, **options}).build(60).eval()


@torch.no_grad()
def _hidden(model):
    source = Tokens(torch.arange(27).view(3, 9) + 3, torch.tensor([9, 4, 1]))
    target = Tokens(torch.arange(21).view(3, 7) + 5, torch.tensor([7, 2, 5]))
    return model(target, model.encode(source)).hidden


def _give_window(attention):
    attention.core.window = 2


def _give_norms(attention):
    attention.query_norm, attention.key_norm = torch.nn.LayerNorm(16), torch.nn.LayerNorm(16)


@pytest.mark.parametrize("change", [_give_window, _give_norms])
def test_a_prepared_model_computes_what_was_changed_after_building(change):
    model = _model()
    for layer in model.encoder.layers:
        change(layer.self_attention)
    torch.testing.assert_close(_hidden(prepare(model)), _hidden(model), atol=1e-4, rtol=1e-4)


PRECISIONS = pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.int8])


@PRECISIONS
def test_a_prepared_model_can_be_copied(dtype):
    prepared = prepare(_model(), dtype)
    other = copy.deepcopy(prepared)
    assert torch.equal(_hidden(other), _hidden(prepared))
    assert other.model.decoder is other._modules["decoder"] is not prepared._modules["decoder"]


@PRECISIONS
def test_a_prepared_model_is_prepared_once(dtype):
    prepared = prepare(_model(), dtype)
    assert prepare(prepared) is prepare(prepared, dtype) is prepared
    with pytest.raises(ValueError, match="prepare the original"):
        prepare(prepared, torch.float16)


@PRECISIONS
def test_a_prepared_model_is_not_cast_and_with_it_the_original(dtype):
    model = _model()
    with pytest.raises(RuntimeError, match="neither moved nor cast"):
        prepare(model, dtype).to(torch.float64)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
