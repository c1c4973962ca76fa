"""Attention of sentences without padding, there and back, is PyTorch's in every sentence by itself."""

from __future__ import annotations

import contextlib
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from kinds import compiled, on_processors
from torch import Tensor
from torch.nn import functional as F

from regard.accel import native, varlen
from regard.accel.native import Native
from regard.accel.ways import switched_on
from regard.models.recorder import record
from regard.models.transformer import Transformer
from regard.nn import kernels
from regard.nn.layout import Layout
from regard.nn.multihead import Attention
from regard.nn.packing import ROWS, Packing
from regard.nn.positions import ALiBi, RelativeBias, Rotary
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
    grouped=st.sampled_from([(1, 1), (4, 4), (4, 2), (6, 1)]),
    width=st.sampled_from([16, 32, 48, 64]),
    kind=st.sampled_from(["own", "causal", "memory"]),
    biased=st.sampled_from(["", "a head", "a sentence and head"]),
    spare=st.sampled_from([0, 5]),
    seed=st.integers(0, 99),
)
def test_attention_is_pytorchs_in_every_sentence(
    kernels: Native, dtype: torch.dtype, lengths: list[tuple[int, int]], grouped: tuple[int, int], width: int,
    kind: str, biased: str, spare: int, seed: int,
) -> None:  # fmt: skip
    torch.manual_seed(seed)
    (count, groups), cross = grouped, kind == "memory"
    of_queries = [queries for queries, _ in lengths]
    of_keys = [keys for _, keys in lengths] if cross else of_queries
    assume(any(of_queries))
    queries, keys = packed(of_queries, 40, spare), packed(of_keys, 70, spare)
    joined = count * width + (0 if cross else 2 * groups * width)
    table = torch.randn(sum(of_queries) + spare, joined).to(dtype).requires_grad_()
    memory = torch.randn(sum(of_keys) + spare, 2 * groups * width).to(dtype).requires_grad_() if cross else None
    layout = Layout(causal=kind == "causal", packing=queries, key_packing=keys)

    bias = torch.randn(len(lengths) if "sentence" in biased else 1, count, 40, 70) if biased else None

    def heads(x: Tensor) -> Tensor:
        return x.view(1, len(x), -1, width).transpose(1, 2)

    own = table[:, : count * width]
    of_keys_and_values = (table[:, count * width :] if memory is None else memory).chunk(2, 1)
    with mock.patch.object(native, "for_training", lambda *_: kernels):
        mixed = varlen.native_attention(heads(own), *map(heads, of_keys_and_values), layout, bias=bias)
    assert mixed is not None
    mixed = mixed.transpose(1, 2).flatten(2)[0]
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
        added = torch.zeros(1, 1, length, others) if bias is None else bias[n % len(bias), None, :, :length, :others]
        if kind == "causal":
            added = added.masked_fill(torch.ones(length, others, dtype=torch.bool).triu(1), -torch.inf)
        found = F.scaled_dot_product_attention(
            *(x[None] for x in apart), attn_mask=added.double(), enable_gqa=True
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
def test_the_module_is_the_same_with_the_kernels_and_without(cross: bool, padded: bool) -> None:
    torch.manual_seed(0)
    attention = Attention(heads=4).build(64, 64 if cross else None)
    lengths = torch.tensor([9, 4, 7]) if padded else torch.tensor([9, 9, 9])
    x, memory = torch.randn(3, 9, 64), torch.randn(3, 9, 64)

    def gradients(fast: bool) -> list[Tensor]:
        layout = Layout.padded(lengths, 9, packing=Packing.of(lengths, 9))
        pack = layout.packing.pack if layout.packing else torch.clone
        kept: dict[str, Any] = {}
        if cross:
            kept["memory"] = pack(memory)
            layout = Layout.cross(lengths, 9, queries=layout.packing, keys=layout.packing)
        attention.zero_grad()
        with switched_on() if fast else contextlib.nullcontext():
            attention(pack(x), layout, **kept).square().sum().backward()
        return [parameter.grad.clone() for parameter in attention.parameters()]

    for one, other in zip(gradients(True), gradients(False), strict=True):
        close(one, other, 1e-5)


@compiled
def test_a_call_that_the_kernels_do_not_know_is_refused() -> None:
    real = torch.tensor([5, 5])
    x, layout = torch.randn(2, 3, 5, 16, requires_grad=True), Layout.padded(real, 5)

    def taken(x: Tensor = x, layout: Layout = layout, value: Tensor | None = None, **options: Any) -> bool:
        return varlen.native_attention(x, x, x if value is None else value, layout, **options) is not None

    assert taken() and taken(scale=1.0)
    assert not taken(dropout=0.1), "dropout on weights"
    assert taken(bias=torch.zeros(1, 3, 5, 5)) and taken(bias=torch.zeros(2, 1, 5, 5))
    assert not taken(bias=torch.zeros(1, 3, 5, 5, requires_grad=True)), "the gradient of a bias"
    assert not taken(torch.randn(2, 3, 5, 24)), "heads of 24"
    assert not taken(value=torch.randn(2, 3, 5, 32)), "values of another width"
    assert not taken(x.double())
    assert not taken(layout=Layout.padded(torch.tensor([5, 2]), 5)), "padding between the rows"
    assert not taken(layout=layout.within(2, 5, 5, x.device)), "a window"
    assert not taken(layout=Layout.cached(torch.ones(2, 5, 5, dtype=torch.bool), torch.zeros(2, 5))), "a cache"
    with torch.no_grad():
        assert not taken(), "without gradients a stack is compiled, or exact"


@compiled
@pytest.mark.parametrize(
    "options", [{}, {"positions": Rotary()}, {"positions": ALiBi()}, {"positions": RelativeBias()}]
)
def test_packed_rows_reach_the_kernels_in_all_attentions(options: dict[str, Any]) -> None:
    model = Transformer(
        width=32, heads=2, feedforward=32, encoder_layers=2, decoder_layers=2, dropout=0.0, **options
    ).build(50)
    tokens = Tokens(torch.randint(4, 50, (3, 7)), torch.tensor([7, 3, 5]))
    with mock.patch.object(Native, "attention", autospec=True, side_effect=Native.attention) as calls, switched_on():
        kernels.slow_calls.clear()
        model(tokens, model.encode(tokens)).hidden.sum().backward()
    biased = "positions" in options and isinstance(options["positions"], RelativeBias)
    assert calls.call_count == (2 if biased else 6), "two self-attentions a stack and two to the memory"
    assert kernels.slow_calls["a bias on packed rows"] == (4 if biased else 0)


@compiled
def test_gradients_of_heads_are_joined_without_a_copy() -> None:
    table = torch.randn(2, 5, 48, requires_grad=True)
    query, key, value = varlen.split_heads(table, (1, 1, 1))
    gradients = varlen._empty_side_by_side(query, key, value)
    joined = varlen._joined(gradients)
    assert joined is not None and joined.data_ptr() == gradients[0].data_ptr()
    assert varlen._joined([torch.randn(2, 1, 5, 16) for _ in range(3)]) is None
    (found,) = torch.autograd.grad([query, key, value], table, [torch.full_like(query, n) for n in range(3)])
    assert torch.equal(found, torch.arange(3.0).repeat_interleave(16).expand(2, 5, 48))


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
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow), switched_on():
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
    with switched_on():
        mixed = attention(x, Layout())
    assert mixed[1].isnan().all() and mixed[[0, 2]].isfinite().all()


def test_training_can_be_looked_into() -> None:
    model = Transformer(width=32, heads=2, feedforward=32, encoder_layers=1, decoder_layers=1).build(50).train()
    tokens = Tokens(torch.randint(4, 50, (2, 5)), torch.tensor([5, 3]))
    with record(model) as trace, switched_on():
        model(tokens, model.encode(tokens))
    assert trace.weights("decoder.layers.0.cross_attention").shape == (2, 2, 5, 5)
