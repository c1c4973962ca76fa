"""Padded batches of ids."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from regard.nn.sequences import Tokens


def padded(sentences: Sequence[Sequence[int] | NDArray[np.integer]], pad: int, device: torch.device | str) -> Tokens:
    """Rows of ids, at least one, as ids [B, S] that are padded on the right, and lengths [B]."""
    lengths = torch.tensor([len(ids) for ids in sentences])
    ids = torch.full((len(sentences), int(lengths.max())), pad, dtype=torch.int64)
    for row, sentence in zip(ids.numpy(), sentences, strict=True):
        row[: len(sentence)] = sentence
    return Tokens(ids.to(device), lengths.to(device))
