"""Named random streams: every draw of a run is a function of seed, purpose and position, not of earlier draws."""

from __future__ import annotations

import hashlib

import torch


def stream_key(seed: int, purpose: str, *position: int) -> int:
    """A 63-bit seed for one purpose at one position.

    >>> stream_key(1, "dropout", 7, 0, 0) == stream_key(1, "dropout", 7, 0, 0)
    True
    >>> stream_key(1, "dropout", 7, 0, 0) == stream_key(1, "dropout", 7, 1, 0)
    False
    """
    text = "/".join((str(seed), purpose, *map(str, position)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def seed_stream(seed: int, purpose: str, *position: int) -> None:
    """Seed PyTorch's generators of all devices for this stream."""
    torch.manual_seed(stream_key(seed, purpose, *position))
