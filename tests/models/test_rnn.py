"""The recurrent translator: what no other model has."""

from __future__ import annotations

import math

import torch

from regard.models.rnn import RNN


def test_embeddings_are_multiplied_by_the_root_of_the_width() -> None:
    """Models that were trained so translate as they did."""
    model = RNN(width=64).build(50)
    ids = torch.arange(50)[None]
    for embedding in (model.source_embedding, model.target_embedding):
        assert torch.equal(embedding.eval()(ids), math.sqrt(64) * embedding.table.weight[None])
