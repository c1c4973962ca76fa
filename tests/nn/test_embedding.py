"""Embeddings: word, position and segment are added, then the norm, then the dropout, as in BERT."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from regard.nn.embedding import Embedding
from regard.nn.norm import LayerNorm
from regard.nn.positions import Learned


def embedding(**fields: Any) -> Any:
    torch.manual_seed(0)
    return Embedding(**fields).build(11, 8).double()


IDS = torch.tensor([[3, 5, 10], [0, 1, 2]])


def test_the_sum_is_normed_and_then_dropped() -> None:
    module = embedding(positions=Learned(4), segments=2, norm=LayerNorm(), factor=3.0, dropout=0.5).eval()
    segments = torch.tensor([[0, 1, 1], [0, 0, 1]])
    words, places, kinds = module.table.weight, module.positions.weight, module.segments.weight
    expected = module.norm(3 * words[IDS] + places[:3] + kinds[segments])
    torch.testing.assert_close(module(IDS, segments=segments), expected)
    dropped = module.train()(IDS, segments=segments)
    assert ((dropped == 0) | torch.isclose(dropped, 2 * expected)).all() and (dropped == 0).any()


def test_no_segments_are_the_first_segment() -> None:
    module = embedding(segments=2)
    torch.testing.assert_close(module(IDS), module(IDS, segments=torch.zeros_like(IDS)))


def test_segments_are_refused_where_there_are_no_vectors() -> None:
    with pytest.raises(ValueError, match="no vectors of segments"):
        embedding()(IDS, segments=torch.zeros_like(IDS))
    with pytest.raises(ValueError, match="segments=-1 must be at least 0"):
        Embedding(segments=-1)


def test_positions_begin_behind_the_offset() -> None:
    module = embedding(positions=Learned(3, offset=2))
    assert module.positions.weight.shape == (5, 8) and module.positions.limit == 3
    expected = module.table(IDS) + module.positions.weight[2:]
    torch.testing.assert_close(module(IDS), expected)
    torch.testing.assert_close(module(IDS, torch.arange(3).expand(2, -1)), expected)
    with pytest.raises(ValueError, match="4 positions are asked for, and 3 were learned"):
        module.reserve(4)
