"""The paper's model: its size, its start, its shared tables, and that sentences do not see one another."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from regard.models.bodies import EncoderDecoder
from regard.models.decoder import DecoderOnly
from regard.models.transformer import PRESETS, Transformer
from regard.nn.norm import RMSNorm
from regard.nn.positions import ALiBi, Learned, RelativeBias, Rotary, Sinusoidal
from regard.nn.sequences import Tokens

V = 29
SMALL = Transformer(width=16, heads=2, feedforward=32, encoder_layers=2, decoder_layers=2)


@pytest.mark.parametrize(("name", "count"), [("base", 63_082_496), ("big", 214_245_376)])
def test_parameter_counts_of_the_paper(name: str, count: int) -> None:
    with torch.device("meta"):
        model = PRESETS[name].build(37_000)
    assert sum(parameter.numel() for parameter in model.parameters()) == count


def test_the_start() -> None:
    torch.manual_seed(0)
    model = Transformer(width=128, heads=4, feedforward=256, encoder_layers=1, decoder_layers=1).build(4000)
    assert model.source_embedding.table.weight.std().item() == pytest.approx(128**-0.5, rel=0.01)
    x = model.source_embedding.table(torch.arange(4000)) * model.source_embedding.factor
    assert x.std().item() == pytest.approx(1, rel=0.01)
    for name, tensor in model.state_dict().items():
        if name.endswith("bias"):
            assert (tensor == 0).all()
        elif "norm" in name:
            assert (tensor == 1).all()
        elif "table" not in name:  # Xavier: uniform between ±√(6 / (in + out)), Q, K and V each for itself
            bound = (6 / sum(tensor.shape)) ** 0.5
            assert tensor.abs().max() <= bound and tensor.abs().max() > 0.98 * bound, name


def batch(model: EncoderDecoder, seed: int = 0) -> tuple[Tokens, Tokens]:
    torch.manual_seed(seed)
    source_lengths, target_lengths = torch.tensor([5, 2, 7]), torch.tensor([3, 6, 1])
    return (
        Tokens(torch.randint(4, V, (3, 7)), source_lengths),
        Tokens(torch.randint(4, V, (3, 6)), target_lengths),
    )


@pytest.mark.parametrize(
    "options",
    [
        SMALL,
        Transformer(width=16, heads=2, feedforward=32, encoder_layers=1, decoder_layers=2, order="pre", norm=RMSNorm()),
        Transformer(width=16, heads=2, feedforward=32, positions=Rotary(), gated=True, activation="silu"),
        Transformer(width=16, heads=2, feedforward=32, positions=RelativeBias(8, 16), bias=False, share="none"),
        Transformer(width=16, heads=2, feedforward=32, positions=Learned(12), share="target", output_bias=True),
        Transformer(width=16, heads=2, feedforward=32, positions=Sinusoidal(interleaved=False), final_norm=True),
    ],
)
def test_a_padded_batch_equals_the_sentences_one_by_one(options: Transformer) -> None:
    model = options.build(V).double().eval()
    source, target = batch(model)
    together = model(target, model.encode(source)).hidden
    for i, (s, t) in enumerate(zip(source.lengths, target.lengths, strict=True)):
        memory = model.encode(Tokens(source.ids[i : i + 1, :s], s[None]))
        alone = model(Tokens(target.ids[i : i + 1, :t], t[None]), memory).hidden
        torch.testing.assert_close(together[i, :t], alone[0], rtol=1e-9, atol=1e-9)
    assert model.logits(together).shape == (3, 6, V)
    some = torch.tensor([5, 3])
    torch.testing.assert_close(model.logits(together, some), model.logits(together)[..., some])


@pytest.mark.parametrize("share", ["all", "target", "inputs", "none"])
def test_shared_tables(share: str) -> None:
    model = Transformer(
        width=16,
        heads=2,
        feedforward=32,
        encoder_layers=1,
        decoder_layers=1,
        share=share,  # type: ignore[arg-type]
    ).build(V)
    tables = {p.data_ptr() for n, p in model.named_parameters(remove_duplicate=False) if p.shape == (V, 16)}
    assert len(tables) == {"all": 1, "target": 2, "inputs": 2, "none": 3}[share]
    state = {name: tensor for name, tensor in model.state_dict().items() if name not in model.ties}
    other = model.options.build(V)
    other.load_state_dict(state)  # strict: the tied names are filled in
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, other.get_parameter(name)), name


def test_two_vocabularies() -> None:
    with pytest.raises(ValueError, match="share='target'"):
        SMALL.build(V, V + 1)
    model = Transformer(width=16, heads=2, feedforward=32, share="target").build(V, V + 1)
    assert model.output_table()[0].shape == (V + 1, 16)


def test_wrong_options_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of heads"):
        Transformer(width=16, heads=3)
    with pytest.raises(ValueError, match="encoder_layers"):
        Transformer(encoder_layers=0)
    for scale in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="output_scale"):
            Transformer(output_scale=scale)


def test_embedding_dropout_is_apart() -> None:
    model = Transformer(width=16, heads=2, feedforward=32, dropout=0.3, embedding_dropout=0.0).build(V)
    assert model.source_embedding.dropout.p == 0 and model.encoder.layers[0].feedforward_residual.dropout.p == 0.3
    assert SMALL.build(V).target_embedding.dropout.p == SMALL.dropout


def test_training_reaches_every_parameter() -> None:
    model = Transformer(width=16, heads=2, feedforward=32, positions=RelativeBias(8, 16), share="none").build(V)
    source, target = batch(model)
    hidden = model(target, model.encode(source)).hidden
    model.logits(hidden).logsumexp(-1).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_a_sentence_of_nothing_is_no_trouble() -> None:
    model = SMALL.build(V)
    memory = model.encode(Tokens(torch.zeros(2, 3, dtype=torch.int64), torch.tensor([0, 3])))
    out = model(Tokens(torch.ones(2, 1, dtype=torch.int64), torch.tensor([1, 1])), memory).hidden
    out.sum().backward()
    assert out.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_alibi_takes_what_is_longer_than_it_was_trained_on() -> None:
    """Trained to count on within 12 tokens, the model counts on among 96, at once and step by step."""
    torch.manual_seed(0)
    model = DecoderOnly(width=32, heads=2, feedforward=64, layers=1, dropout=0.0, positions=ALiBi()).build(V)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)

    def counting(length: int) -> Tensor:
        return (torch.randint(V, (16, 1)) + torch.arange(length)) % V

    def loss_of(ids: Tensor) -> Tensor:
        hidden = model(Tokens(ids[:, :-1], torch.full((16,), ids.shape[1] - 1))).hidden
        return torch.nn.functional.cross_entropy(model.logits(hidden).flatten(0, 1), ids[:, 1:].flatten())

    for _ in range(100):
        optimizer.zero_grad()
        loss_of(counting(13)).backward()
        optimizer.step()
    assert model.longest is None
    with torch.inference_mode():
        ids = counting(97)
        assert loss_of(ids) < 0.1
        state = model.eval().start(None, 1, 97, 16)
        for at in range(96):
            hidden = model.step(ids[:, at : at + 1], state, torch.ones(16, dtype=torch.int64) if at == 0 else None)
            assert model.logits(hidden[:, 0]).argmax(-1).equal(ids[:, at + 1])
