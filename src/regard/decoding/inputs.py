"""Padded batches of ids."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from regard.nn.sequences import Tokens


def padded(sentences: Sequence[Sequence[int]], pad: int, device: torch.device | str) -> Tokens:
    """Sentences, at least one, as one tensor that is padded on the right."""
    lengths = torch.tensor([len(ids) for ids in sentences])
    ids = torch.full((len(sentences), int(lengths.max())), pad, dtype=torch.int64)
    for row, sentence in zip(ids.numpy(), sentences, strict=True):
        row[: len(sentence)] = sentence
    return Tokens(ids.to(device), lengths.to(device))
