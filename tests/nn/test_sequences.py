"""Batches of sequences: what is done to the sentences is done to every tensor of the batch, or refused."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from regard.nn.packing import Packing
from regard.nn.sequences import Memory, Tokens


@dataclass(frozen=True)
class Segmented(Tokens):
    """Tokens with a segment [B, S] for each, and a language [B] for each sentence."""

    segments: Tensor | None = None
    language: Tensor | None = None


def segmented() -> Segmented:
    ids, lengths = torch.arange(12).view(3, 4), torch.tensor([2, 4, 1])
    return Segmented(ids, lengths, segments=ids + 100, language=torch.tensor([7, 8, 9]))


def test_a_part_has_every_field() -> None:
    part = segmented().some(torch.tensor([2, 0]))
    assert type(part) is Segmented
    assert part.ids.tolist() == [[8, 9], [0, 1]] and part.lengths.tolist() == [1, 2]
    assert part.segments.tolist() == [[108, 109], [100, 101]] and part.language.tolist() == [9, 7]


def test_twice_the_sentences_have_every_field() -> None:
    twice = segmented().twice()
    assert type(twice) is Segmented and twice.language.tolist() == [7, 8, 9] * 2
    assert torch.equal(twice.segments, torch.cat([segmented().segments] * 2))


def test_another_device_has_every_field() -> None:
    moved = segmented().to("meta")
    assert {x.device.type for x in (moved.ids, moved.lengths, moved.segments, moved.language)} == {"meta"}


def test_a_part_has_no_packing_of_the_whole() -> None:
    lengths = torch.tensor([2, 4, 1])
    whole = Tokens(torch.zeros(3, 4, dtype=torch.int64), lengths, Packing.made(lengths, 4))
    part = whole.some(torch.tensor([0, 2]))
    assert part.packing is None
    made = part.packed(wanted=True)
    assert made is not None and (made.batch, made.size) == (2, 2)


def test_a_field_that_is_no_tensor_is_refused() -> None:
    @dataclass(frozen=True)
    class Named(Tokens):
        names: tuple[str, ...] = ()

    named = Named(torch.zeros(2, 3), torch.tensor([3, 1]), names=("a", "b"))
    with pytest.raises(TypeError, match=r"Named\.names is no tensor"):
        named.some(torch.tensor([1]))
    with pytest.raises(TypeError, match=r"Named\.names is no tensor"):
        named.twice()


def test_memories_of_any_length_are_joined() -> None:
    short, long = (
        Memory(torch.ones(1, 2, 3), torch.tensor([2])),
        Memory(torch.full((2, 4, 3), 2.0), torch.tensor([4, 3])),
    )
    joined = short.join([long])
    assert joined.lengths.tolist() == [2, 4, 3] and joined.hidden.shape == (3, 4, 3)
    assert joined.hidden[:, :, 0].tolist() == [[1, 1, 0, 0], [2, 2, 2, 2], [2, 2, 2, 2]]


def test_memories_carry_every_field() -> None:
    @dataclass(frozen=True)
    class Summed(Memory):
        mean: Tensor | None = None

    one = Summed(torch.ones(1, 2, 3), torch.tensor([2]), mean=torch.tensor([5.0]))
    two = Summed(torch.ones(2, 3, 3), torch.tensor([3, 1]), mean=torch.tensor([6.0, 7.0]))
    joined = one.join([two])
    assert joined.mean.tolist() == [5, 6, 7]
    assert joined.keep(torch.tensor([2, 0])).mean.tolist() == [7, 5]
