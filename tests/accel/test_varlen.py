"""Attention of sentences without padding, there and back, is PyTorch's in every sentence by itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kinds import compiled, on_processors
from torch import Tensor
from torch.nn import functional as F

from regard.accel import varlen
from regard.accel.native import Native
from regard.models.recorder import record
from regard.models.transformer import Transformer
from regard.nn.layout import Layout
from regard.nn.multihead import Attention, MultiHeadAttention
from regard.nn.packing import ROWS, Packing
from regard.nn.sequences import Tokens

torch.set_num_threads(1)
#: Of the largest number: fp32 loses 2⁻²⁴ at every sum, and bf16 keeps 8 bits of what comes out.
TOLERANCES = {torch.float32: 2e-5, torch.bfloat16: 2**-7}


def packed(lengths: list[int], size: int, spare: int) -> Packing:
    """A packing also where nothing is padded."""
    starts = torch.tensor([0, *lengths]).cumsum(0)
    rows = torch.cat([torch.arange(length) + size * n for n, length in enumerate(lengths)])
    return Packing(rows, starts, len(lengths), size, spare)


def close(one: Tensor, other: Tensor, tolerance: float) -> None:
    assert one.shape == other.shape and one.isfinite().all()
    if one.numel():
        assert (one - other).abs().max() <= tolerance * max(1.0, other.abs().max().item())


@on_processors
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@given(
    lengths=st.lists(st.tuples(st.integers(0, 40), st.integers(1, 70)), min_size=1, max_size=4),
    heads=st.sampled_from([(1, 1), (4, 4), (4, 2), (6, 1)]),
    width=st.sampled_from([16, 32, 48, 64]),
    kind=st.sampled_from(["own", "causal", "memory"]),
    spare=st.sampled_from([0, 5]),
    seed=st.integers(0, 99),
)
def test_it_is_pytorchs_in_every_sentence(
    loops: Native, dtype: torch.dtype, lengths: list[tuple[int, int]], heads: tuple[int, int], width: int, kind: str,
    spare: int, seed: int,
) -> None:  # fmt: skip
    torch.manual_seed(seed)
    (count, groups), cross = heads, kind == "memory"
    of_queries = [queries for queries, _ in lengths]
    of_keys = [keys for _, keys in lengths] if cross else of_queries
    queries, keys = packed(of_queries, 40, spare), packed(of_keys, 70, spare)
    joined = count * width + (0 if cross else 2 * groups * width)
    table = torch.randn(sum(of_queries) + spare, joined).to(dtype).requires_grad_()
    memory = torch.randn(sum(of_keys) + spare, 2 * groups * width).to(dtype).requires_grad_() if cross else None
    layout = Layout(causal=kind == "causal", packing=queries, key_packing=keys if cross else None)
    mixed = varlen.attend(loops, table, memory, layout, count, groups)
    weight = torch.randn_like(mixed)
    tables = [table] if memory is None else [table, memory]
    ours = torch.autograd.grad((mixed * weight).sum(), tables)

    # The oracle: each sentence by itself, in fp64.
    exact = [each.detach().double().requires_grad_() for each in tables]
    expected = torch.zeros(mixed.shape, dtype=torch.float64) + sum(0 * each.sum() for each in exact)
    for n, (length, others) in enumerate(zip(of_queries, of_keys, strict=True)):
        if not length:
            continue
        at, of = int(queries.starts[n]), int((keys if cross else queries).starts[n])
        query = exact[0][at : at + length, : count * width]
        others_ = exact[-1][of : of + others, 0 if cross else count * width :]
        apart = [x.view(len(x), -1, width).transpose(0, 1) for x in (query, *others_.chunk(2, 1))]
        found = F.scaled_dot_product_attention(
            *(x[None] for x in apart), is_causal=kind == "causal", enable_gqa=True
        )[0].transpose(0, 1).flatten(1)  # fmt: skip
        expected = expected.index_put((torch.arange(at, at + length),), found)
    theirs = torch.autograd.grad((expected * weight.double()).sum(), exact)
    close(mixed, expected, TOLERANCES[dtype])
    for one, other in zip(ours, theirs, strict=True):
        close(one, other, TOLERANCES[dtype])
    assert not mixed[sum(of_queries) :].any() and not ours[0][sum(of_queries) :].any()


@compiled
@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_the_module_is_the_same_with_the_loops_and_without(cross: bool, padded: bool) -> None:
    torch.manual_seed(0)
    attention = Attention(heads=4).build(64, 64 if cross else None)
    lengths = torch.tensor([9, 4, 7]) if padded else torch.tensor([9, 9, 9])
    x, memory = torch.randn(3, 9, 64), torch.randn(3, 9, 64)

    def gradients(watched: bool) -> list[Tensor]:
        layout = Layout.padded(lengths, 9, packing=Packing.of(lengths, 9))
        pack = layout.packing.pack if layout.packing else torch.clone
        kept: dict[str, Any] = {}
        if cross:
            kept["memory"] = pack(memory)
            layout = Layout.cross(lengths, 9, queries=layout.packing, keys=layout.packing)
        handle = attention.core.register_forward_hook(lambda *_: None) if watched else None
        assert (varlen.choose(attention, x, layout) is None) == watched, "whoever looks at a core sees its calls"
        attention.zero_grad()
        attention(pack(x), layout, **kept).square().sum().backward()
        if handle:
            handle.remove()
        return [parameter.grad.clone() for parameter in attention.parameters()]

    for one, other in zip(gradients(False), gradients(True), strict=True):
        close(one, other, 1e-5)


@compiled
def test_what_the_loops_do_not_know_goes_another_way() -> None:
    x, layout = torch.randn(2, 5, 48), Layout.padded(torch.tensor([5, 5]), 5)

    def taken(attention: MultiHeadAttention, layout: Layout = layout, x: Tensor = x) -> bool:
        return varlen.choose(attention, x, layout) is not None

    fits = Attention(heads=3).build(48)
    assert taken(fits)
    assert not taken(Attention(heads=3, dropout=0.1).build(48)), "dropout on weights"
    assert not taken(Attention(heads=2).build(48)), "heads of 24"
    assert not taken(fits, x=x.double())
    assert not taken(fits, Layout.padded(torch.tensor([5, 2]), 5)), "a mask"
    assert not taken(fits.eval()), "in evaluation a stack is compiled, or exact"


@compiled
def test_in_bf16_rows_come_in_blocks_and_the_spare_ones_change_nothing() -> None:
    torch.manual_seed(0)
    model = Transformer(width=64, heads=4, feedforward=96, encoder_layers=2, decoder_layers=2, dropout=0.0).build(50)
    source = Tokens(torch.randint(4, 50, (9, 11)), torch.tensor([11, 2, 4, 9, 9, 8, 7, 6, 5]))
    target = Tokens(torch.randint(4, 50, (9, 13)), torch.tensor([3, 13, 5, 9, 2, 8, 7, 6, 9]))
    rows = set()
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda _, inputs, __: rows.add(inputs[0].numel() // inputs[0].shape[-1]))

    def gradients(narrow: bool) -> list[Tensor]:
        model.train().zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            hidden = model(target, model.encode(source)).hidden
        (hidden.float() * torch.linspace(-1, 1, hidden.numel()).view_as(hidden)).sum().backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    exact = gradients(False)
    assert rows == {61, 62}
    rows.clear()
    narrow = gradients(True)
    assert rows == {ROWS}
    for one, other in zip(narrow, exact, strict=True):
        # bf16 keeps 8 bits; what is summed here cancels out in part.
        assert (one - other).norm() <= 0.05 * other.norm() + 0.05 * sum(x.norm() for x in exact) / len(exact)


@compiled
def test_a_number_that_is_not_finite_stays_in_its_sentence_and_is_not_lost() -> None:
    attention = Attention(heads=2).build(32)
    x = torch.randn(3, 4, 32)
    x[1, 2, 3] = torch.nan
    mixed = attention(x, Layout())
    assert mixed[1].isnan().all() and mixed[[0, 2]].isfinite().all()


def test_training_can_be_looked_into() -> None:
    model = Transformer(width=32, heads=2, feedforward=32, encoder_layers=1, decoder_layers=1).build(50).train()
    tokens = Tokens(torch.randint(4, 50, (2, 5)), torch.tensor([5, 3]))
    with record(model) as trace:
        model(tokens, model.encode(tokens))
    assert trace.weights("decoder.layers.0.cross_attention").shape == (2, 2, 5, 5)
