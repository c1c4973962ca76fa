"""The marks of text.json that decoding reads, and padded batches of ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from regard.nn.sequences import Tokens


class Settings(Protocol):
    """The part of text.json that decoding reads (``regard.text.settings.TextSettings`` has all of it)."""

    @property
    def pad(self) -> int: ...
    @property
    def eos(self) -> int: ...
    @property
    def start(self) -> int: ...
    @property
    def forced_prefix(self) -> Sequence[int]: ...
    @property
    def suppressed(self) -> Sequence[int]: ...


def padded(sentences: Sequence[Sequence[int]], pad: int, device: torch.device | str) -> Tokens:
    """Sentences, at least one, as one tensor that is padded on the right."""
    lengths = torch.tensor([len(ids) for ids in sentences])
    ids = torch.full((len(sentences), int(lengths.max())), pad, dtype=torch.int64)
    for row, sentence in zip(ids.numpy(), sentences, strict=True):
        row[: len(sentence)] = sentence
    return Tokens(ids.to(device), lengths.to(device))
