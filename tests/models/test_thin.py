"""The recurrent and the decoder-only model: their options, and what is theirs alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from regard.errors import RegardError
from regard.models import registry
from regard.models.decoder import DecoderOnly
from regard.models.rnn import RNN
from regard.nn.positions import Rotary
from regard.nn.sequences import Tokens


@pytest.mark.parametrize("architecture", ["rnn", "decoder"])
def test_presets_grow(architecture: str) -> None:
    presets = registry.presets(architecture)
    counts = [registry.parameter_count(presets[name], 1000) for name in ("tiny", "small", "base", "big")]
    assert counts == sorted(counts) and len(set(counts)) == 4


@pytest.mark.parametrize(
    "options",
    [
        RNN(width=8, bidirectional=False),
        RNN(width=8, encoder_layers=2, decoder_layers=3),
        RNN(width=8, share="target"),
        RNN(width=8, share="none", embedding_dropout=0.0),
    ],
)
def test_recurrent_options(options: RNN) -> None:
    model = options.build(11, 13 if options.share != "all" else None).eval()
    lengths = torch.tensor([4, 2])
    memory = model.encode(Tokens(torch.randint(0, 11, (2, 4)), lengths))
    assert memory.hidden.shape == (2, 4, 8)
    logits = model.logits(model(Tokens(torch.randint(0, 11, (2, 3)), torch.tensor([3, 3])), memory).hidden)
    assert logits.shape == (2, 3, 11 if options.share == "all" else 13)


def test_recurrent_start_is_orthogonal_gate_by_gate() -> None:
    model = RNN(width=8, decoder_layers=2).build(11)
    for matrix in (model.decoder.unit.state.weight, model.decoder.upper[0].weight_hh_l0):
        for gate in matrix.chunk(3):
            torch.testing.assert_close(gate @ gate.T, torch.eye(8))


def test_decoder_start_is_gpt2s() -> None:
    torch.manual_seed(0)
    model = DecoderOnly(width=64, layers=8, heads=2, feedforward=256).build(500)
    layer = model.decoder.layers[0]
    assert layer.feedforward.input.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert layer.feedforward.output.weight.std().item() == pytest.approx(0.02 / 4, rel=0.1)
    assert layer.self_attention.output.weight.std().item() == pytest.approx(0.02 / 4, rel=0.1)
    assert model.target_embedding.table.weight.std().item() == pytest.approx(0.02, rel=0.1)
    hidden = model(Tokens(torch.arange(20)[None], torch.tensor([20]))).hidden[0]
    loss = nn.functional.cross_entropy(model.logits(hidden), torch.arange(1, 21))
    assert loss.item() == pytest.approx(torch.tensor(500.0).log().item(), rel=0.02)


def test_parts_that_do_not_fit_are_named() -> None:
    cases = [
        (DecoderOnly(width=6, heads=2, positions=Rotary()), "rotary positions need an even head width"),
        (RNN(width=7), "width=7 is odd"),
    ]
    for options, message in cases:
        with pytest.raises(RegardError, match=message):
            registry.describe(options, 10)
    with pytest.raises(RegardError, match="share='all' needs one vocabulary"):
        registry.describe(RNN(), 10, 11)
    with pytest.raises(RegardError, match="a decoder-only model has one vocabulary"):
        registry.describe(DecoderOnly(), 10, 11)
    with pytest.raises(RegardError, match=r"model: layers=0 must be at least 1"):
        registry.options_from({"architecture": "decoder", "layers": 0})
