"""Tests that need a GPU: its kernels and graphs against the equation and the plain steps. Skipped without one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from regard.accel import varlen
from regard.config import read_config
from regard.data.batch import collate
from regard.decoding import graphs
from regard.decoding.engine import decode
from regard.decoding.search import Search
from regard.models.transformer import Transformer
from regard.nn.layout import Layout
from regard.nn.sequences import Tokens
from regard.text.settings import TextSettings
from regard.training.feed import Item
from regard.training.step import Trainer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
GPU = torch.device("cuda")
SHAPE = {"width": 64, "heads": 4, "feedforward": 96, "encoder_layers": 2, "decoder_layers": 2}


def packed(lengths: list[int]) -> Tokens:
    return Tokens(torch.ones(len(lengths), max(lengths), dtype=torch.int64), torch.tensor(lengths)).to(GPU)


@pytest.mark.parametrize("kind", ["own", "causal", "memory"])
def test_flash_attention_is_pytorchs_in_every_sentence(kind: str) -> None:
    torch.manual_seed(0)
    heads, width, cross = 4, 32, kind == "memory"
    of_queries, of_keys = [9, 30, 1, 17], [5, 11, 40, 2] if kind == "memory" else [9, 30, 1, 17]
    queries, keys = packed(of_queries).packing, packed(of_keys).packing
    assert queries is not None and keys is not None
    joined = heads * width * (1 if cross else 3)
    table = torch.randn(sum(of_queries), joined, device=GPU, dtype=torch.bfloat16, requires_grad=True)
    memory = torch.randn(sum(of_keys), 2 * heads * width, device=GPU, dtype=torch.bfloat16, requires_grad=True)
    layout = Layout(causal=kind == "causal", packing=queries, key_packing=keys)
    parts = table.chunk(1 if cross else 3, 1) + (memory.chunk(2, 1) if cross else ())
    apart = [x.view(1, len(x), heads, width).transpose(1, 2) for x in parts]
    found = varlen.flash_attention(*apart, layout)
    assert found is not None
    mixed = found.transpose(1, 2).flatten(2)[0]
    weight = torch.randn_like(mixed)
    tables = [table, memory] if cross else [table]
    ours = torch.autograd.grad((mixed * weight).sum(), tables)

    exact = [each.detach().double().requires_grad_() for each in tables]
    sentences: list[Tensor] = []
    for query, key_value in zip(
        exact[0].split(of_queries), (exact[-1] if cross else exact[0]).split(of_keys), strict=True
    ):
        key, value = key_value[:, 0 if cross else heads * width :].chunk(2, 1)
        apart = [x.view(1, len(x), heads, width).transpose(1, 2) for x in (query[:, : heads * width], key, value)]
        sentences.append(
            F.scaled_dot_product_attention(*apart, is_causal=kind == "causal")[0].transpose(0, 1).flatten(1)
        )
    expected = torch.cat(sentences)
    theirs = torch.autograd.grad((expected * weight.double()).sum(), exact)
    for one, other in zip((mixed, *ours), (expected, *theirs), strict=True):
        assert (one - other).abs().max() <= 2**-6 * other.abs().max()  # bf16 keeps 8 bits of what goes in and comes out


def losses(**training: Any) -> list[float]:
    """The losses of some updates on one batch, as the trainer reads them."""
    data = {"train": ["x"], "valid": "x", "source": "xx", "target": "yy", "vocabulary": 300}
    model = {"architecture": "transformer", "dropout": 0.0, **SHAPE}
    config = read_config(None, seed=1, data=data, model=model, training={"warmup_steps": 100, **training})
    torch.manual_seed(0)
    draw = torch.Generator().manual_seed(1)
    rows = [torch.randint(4, 300, (n,), generator=draw).tolist() for n in (3, 9, 14, 2, 7, 7)]
    built: Any = Transformer(**SHAPE, dropout=0.0).build(300).to(GPU)
    trainer = Trainer(config, built, GPU)
    item = Item.of(0, 0, [], [collate(rows, rows[::-1], TextSettings())]).to(GPU)
    found = [trainer.read(trainer.start_update(item, step), step) for step in range(1, 31)]
    return [statistics.loss / statistics.target_tokens for statistics in found]


def test_updates_in_bf16_follow_those_in_fp32_compiled_or_not() -> None:
    exact, narrow, compiled = losses(precision="fp32"), losses(precision="bf16"), losses(precision="bf16", compile=True)
    assert exact[-1] < exact[0] - 1
    for other in (narrow, compiled):
        assert all(abs(a - b) <= 0.05 * a for a, b in zip(exact, other, strict=True))


@pytest.mark.parametrize("beam", [1, 4])
def test_decoding_by_graphs_finds_what_steps_find(beam: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(3)
    model: Any = Transformer(**SHAPE).build(50).to(GPU).eval()
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.4)
    draw = torch.Generator().manual_seed(1)
    inputs = [torch.randint(4, 50, (1 + n % 9,), generator=draw).tolist() for n in range(40)]

    def found() -> list[list[list[int]]]:
        results = decode(model, inputs, TextSettings(), Search(beam=beam, max_extra=30), batch_tokens=90 * beam)
        return [[hypothesis.ids for hypothesis in result.hypotheses] for result in results]

    by_graphs = found()
    monkeypatch.delitem(graphs.CAPTURES, "cuda")
    steps = found()
    assert sum(a == b for a, b in zip(by_graphs, steps, strict=True)) >= 39  # but for a tie
