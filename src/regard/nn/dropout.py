"""Dropout (section 5.4), cheap on CPU: random bytes instead of one Bernoulli draw for each number.

Measured on one core at 4,096 × 128 numbers: ``F.dropout`` and its backward pass 5.4 ms, this file's 0.7 ms.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard.nn.ops import Operation


class Dropout(nn.Module):
    """Sets each number to 0 with probability ``p`` in training and scales the rest by 1 / (1 - p)."""

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, and is {p}")
        self.p = p

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """x [*] → [*], or ``residual`` + dropped x in one pass over memory."""
        if not self.training or self.p == 0:
            return x if residual is None else residual + x
        return dropped(x, self.p) if residual is None else add_dropped(x, residual, self.p)

    def extra_repr(self) -> str:
        return f"p={self.p}"


def dropped(x: Tensor, p: float) -> Tensor:
    """x with each number 0 with probability p, the rest scaled by 1 / (1 - p)."""
    return x * cpu_mask(x, p) if x.device.type == "cpu" else F.dropout(x, p)


def _add_dropped(x: Tensor, residual: Tensor, p: float) -> Tensor:
    """residual [*] + dropped x [*]."""
    return residual + dropped(x, p)


add_dropped = Operation(_add_dropped)


_of_thread = threading.local()


@contextlib.contextmanager
def drawing_from(generator: torch.Generator) -> Iterator[None]:
    """Within the block, this thread draws its masks on CPU from ``generator``, so that threads can draw at once."""
    _of_thread.generator = generator
    try:
        yield
    finally:
        _of_thread.generator = None


def cpu_mask(like: Tensor, p: float) -> Tensor:
    """A mask shaped and typed as ``like``: 0 with probability p, else 1 / (1 - p)."""
    bytes_, least = random_bytes(like.numel(), p)
    if least == 128:  # more than any byte; p is above 255 / 256
        return torch.zeros_like(like)
    mask = torch.empty_like(like, requires_grad=False, memory_format=torch.contiguous_format)
    torch.ge(bytes_, least, out=mask.view(-1))
    return mask.mul_(1 / (1 - p))


def random_bytes(count: int, p: float) -> tuple[Tensor, int]:
    """``count`` random numbers from -128 to 127, int8, and the least that is kept; those below have probability p.

    The generator is the thread's, or torch's default. 256 p is seldom whole: one more draw rounds it up or down for the
    whole call. So each number is dropped with probability p to within 2⁻⁵³, and only the share that one call drops is
    a multiple of 1/256.
    """
    generator = getattr(_of_thread, "generator", None)
    words = torch.empty(count // 8 + 2, dtype=torch.int64)
    words.random_(-(2**63), None, generator=generator)  # the whole range of 64 bits
    low = math.floor(256 * p)
    threshold = low + (words[-1].item() / 2**64 + 0.5 < 256 * p - low)
    return words.view(torch.int8)[:count], threshold - 128
