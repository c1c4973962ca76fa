"""Who sees whom, whatever the lengths: properties of the masks, found by hypothesis."""

from __future__ import annotations

import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from regard.nn.layout import Layout
from regard.nn.packing import ROWS, Packing
from regard.nn.padding import real
from regard.nn.sequences import Memory, Tokens

lengths_of_batch = st.lists(st.integers(0, 9), min_size=1, max_size=5)


def written_out(layout: Layout, queries: int, keys: int) -> torch.Tensor:
    """[B or 1, 1, Q, S], with True everywhere where the layout hides nothing."""
    allowed = layout.allowed(queries, keys, torch.device("cpu"))
    everything = torch.ones(1, 1, queries, keys, dtype=torch.bool)
    return everything if allowed is None else everything & allowed


@given(lengths_of_batch, st.integers(0, 3))
def test_padding_is_never_seen(lengths: list[int], more: int) -> None:
    size = max(1, max(lengths) + more)
    allowed = written_out(Layout.padded(torch.tensor(lengths), size), size, size)
    for row, length in zip(allowed.expand(len(lengths), -1, -1, -1), lengths, strict=True):
        assert row[..., :length].all() and not row[..., length:].any()


@given(lengths_of_batch, st.integers(0, 3))
def test_causal_rows_see_themselves_and_what_stands_before(lengths: list[int], more: int) -> None:
    size = max(1, max(lengths) + more)
    layout = Layout.padded(torch.tensor(lengths), size, causal=True)
    assert layout.mask is None and layout.lengths is None, "the kernels' own causal path needs no mask, padded or not"
    allowed = written_out(layout, size, size)
    for row, length in zip(allowed.expand(len(lengths), -1, -1, -1), lengths, strict=True):
        for query in range(length):  # real queries; nobody reads the others
            assert row[0, query].tolist() == [key <= query for key in range(size)]


@given(lengths_of_batch, st.integers(1, 6))
def test_every_query_sees_the_whole_memory_and_no_padding(lengths: list[int], queries: int) -> None:
    size = max(1, max(lengths))
    allowed = written_out(Layout.cross(torch.tensor(lengths), size), queries, size)
    seen = allowed.expand(len(lengths), 1, queries, size)
    assert torch.equal(seen, real(torch.tensor(lengths), size)[:, None, None, :].expand_as(seen))


def packing_of(lengths: list[int], size: int, narrow: bool) -> tuple[Packing, int]:
    """The packing, and how many rows it has; ``narrow``: as for products in bf16."""
    with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
        packing = Packing.of(torch.tensor(lengths), size)
    assert packing is not None
    return packing, -(-sum(lengths) // ROWS) * ROWS if narrow else sum(lengths)


@given(lengths_of_batch, st.integers(1, 3), st.booleans())
def test_packing_keeps_what_is_real_and_loses_no_gradient(lengths: list[int], more: int, narrow: bool) -> None:
    assume(any(lengths))
    size = max(lengths) + more
    packing, rows = packing_of(lengths, size, narrow)
    x = torch.randn(len(lengths), size, 2, requires_grad=True)
    packed = packing.pack(x)
    assert packed.shape == (1, rows, 2) and not packed[0, sum(lengths) :].any()
    kept = packing.unpack(packed)
    where = real(torch.tensor(lengths), size)[..., None]
    assert torch.equal(kept, x * where)
    weight = torch.randn_like(x)
    (kept * weight).sum().backward()
    assert torch.equal(x.grad, weight * where)


@given(lengths_of_batch, st.integers(1, 3), st.booleans())
def test_heads_are_packed_and_unpacked_with_their_positions(lengths: list[int], more: int, narrow: bool) -> None:
    assume(any(lengths))
    size, heads, width = max(lengths) + more, 3, 2
    packing, rows = packing_of(lengths, size, narrow)
    where = real(torch.tensor(lengths), size)
    x = torch.randn(len(lengths), heads, size, width)
    packed = packing.pack_heads(x)
    assert packed.shape == (1, heads, rows, width) and not packed[:, :, sum(lengths) :].any()
    assert torch.equal(packing.unpack_heads(packed), x * where[:, None, :, None])
    positions = packing.positions()
    expected = torch.arange(size).expand(len(lengths), size)[where]
    assert positions.shape == (1, rows) and torch.equal(positions[0, : sum(lengths)], expected)


@given(lengths_of_batch, st.integers(1, 4), st.booleans())
def test_a_window_hides_what_is_far_and_shows_nothing_more(lengths: list[int], window: int, causal: bool) -> None:
    size = max(1, max(lengths))
    layout = Layout.padded(torch.tensor(lengths), size, causal)
    allowed, near = (
        written_out(layout, size, size),
        written_out(layout.within(window, size, size, torch.device("cpu")), size, size),
    )
    distance = (torch.arange(size)[:, None] - torch.arange(size)).abs()
    assert torch.equal(near, allowed & (distance < window))


@given(lengths_of_batch, st.integers(0, 3))
def test_twice_the_sentences_are_packed_like_so_many(lengths: list[int], more: int) -> None:
    assume(any(lengths))
    size = max(lengths) + more
    ids = torch.arange(len(lengths) * size).view(-1, size)
    twice = Tokens(ids, torch.tensor(lengths), Packing.made(torch.tensor(lengths), size)).twice()
    assert torch.equal(twice.ids, torch.cat([ids, ids])) and twice.lengths.tolist() == lengths + lengths
    expected = Packing.made(torch.tensor(lengths + lengths), size)
    assert twice.packing is not None and twice.packing.batch == expected.batch
    assert torch.equal(twice.packing.rows, expected.rows) and torch.equal(twice.packing.starts, expected.starts)


@given(st.integers(1, 5), st.integers(1, 9))
def test_nothing_hidden_is_no_mask(batch: int, size: int) -> None:
    lengths = torch.full((batch,), size)
    assert Layout.padded(lengths, size).mask is None
    assert Layout.cross(lengths, size).mask is None
    assert Packing.of(lengths, size) is None, "where there is no padding, none is left out"


def test_masks_are_made_once() -> None:
    layout, made = Layout(), []
    for _ in range(3):
        layout.once("key", lambda: made.append(1) or torch.zeros(1))
    assert made == [1]


def test_memory_keeps_sentences_and_tokens_move() -> None:
    memory = Memory(torch.arange(6.0).view(3, 2, 1), torch.tensor([2, 1, 2]))
    kept = memory.keep(torch.tensor([2, 0]))
    assert kept.hidden[:, 0, 0].tolist() == [4.0, 0.0] and kept.lengths.tolist() == [2, 2]
    assert Tokens(torch.zeros(1, 1), torch.ones(1)).to("cpu").lengths.tolist() == [1]
