"""Positions of tokens: sinusoidal and learned vectors, rotary angles (rotary.py), T5's relative bias, and ALiBi.

Positions enter a model in one of three ways: vectors *added* to the embedding, a *rotation* of queries and keys, or a
*bias* on the scores, which a stack computes once for all its layers. A spec has a ``build_…`` method for each. All take
explicit positions, so that padded, cached and packed inputs run the same code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard.nn.layout import Layout
from regard.nn.rotary import RotaryPositions, Scaling


class TooLong(ValueError):
    """A sequence has more tokens than positions were learned."""


@dataclass(frozen=True)
class Positions:
    """Spec of a kind of positions: it overrides the method of the way in which it enters a model."""

    def build_added(self, width: int) -> Added | None:
        """The module that is added to embeddings of ``width``, if there is one."""
        return None

    def build_rotation(self, head_width: int) -> RotaryPositions | None:
        """The module that rotates queries and keys, if there is one."""
        return None

    def build_bias(self, heads: int, causal: bool) -> PositionBias | None:
        """The module that makes the bias of a stack's self-attention, if there is one."""
        return None


@dataclass(frozen=True)
class NoPositions(Positions):
    """Spec: no positions at all."""


@dataclass(frozen=True)
class Sinusoidal(Positions):
    """Spec of the paper's sinusoids (section 3.5); ``interleaved`` False puts all sines before all cosines (Marian)."""

    interleaved: bool = True

    def build_added(self, width: int) -> Added:
        return SinusoidalPositions(width, self.interleaved)


@dataclass(frozen=True)
class Learned(Positions):
    """Spec of a learned vector for each of ``length`` positions.

    The table begins with ``offset`` rows that are never read: position p is row offset + p (RoBERTa and BART have 2).
    """

    length: int = 1024
    offset: int = 0

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ValueError(f"length={self.length} must be at least 1")
        if self.offset < 0:
            raise ValueError(f"offset={self.offset} must be at least 0")

    def build_added(self, width: int) -> Added:
        return LearnedPositions(self.length, width, self.offset)


@dataclass(frozen=True)
class Rotary(Positions):
    """Spec of rotary positions (Su et al. 2021): queries and keys are rotated by angles that grow with the position.

    ``scaling`` makes the angles smaller, for texts longer than those that the model was first trained on.
    """

    theta: float = 10_000.0
    scaling: Scaling | None = None

    def __post_init__(self) -> None:
        if not 1 < self.theta < math.inf:
            raise ValueError(f"theta={self.theta} must be more than 1")

    def build_rotation(self, head_width: int) -> RotaryPositions:
        return RotaryPositions(head_width, self.theta, self.scaling)


@dataclass(frozen=True)
class RelativeBias(Positions):
    """Spec of T5's relative bias (Raffel et al. 2020): a learned number a head for each bucket of distances."""

    buckets: int = 32
    distance: int = 128

    def __post_init__(self) -> None:
        if self.buckets < 4 or self.buckets % 4 or self.distance <= self.buckets:
            raise ValueError(f"buckets={self.buckets} must be a multiple of 4 and less than distance={self.distance}")

    def build_bias(self, heads: int, causal: bool) -> RelativePositionBias:
        return RelativePositionBias(heads, self.buckets, self.distance, causal)


@dataclass(frozen=True)
class ALiBi(Positions):
    """Spec of attention with linear biases (Press et al. 2022), which takes texts longer than those of training."""

    def build_bias(self, heads: int, causal: bool) -> PositionBias:
        return LinearBias(heads)


class Added(nn.Module):
    """Positions that are added to the embedding; ``limit`` is how many there are, None: unlimited."""

    limit: int | None = None

    def forward(self, embedded: Tensor, positions: Tensor | None, scale: float = 1.0) -> Tensor:
        """scale · embedded [B, T, D] + the vectors of ``positions`` [B, T] (None: 0 … T-1) → [B, T, D]."""
        raise NotImplementedError

    def reserve(self, length: int) -> None:
        """Prepares for positions below ``length``; TooLong where there are fewer.

        ``forward`` does not check explicit positions: reading them would make the host wait for an accelerator.
        """


def sinusoids(length: int, width: int, interleaved: bool = True) -> Tensor:
    """PE(pos, 2i) = sin(pos / 10000^(2i/D)), PE(pos, 2i+1) = cos(the same): [length, D], in fp64."""
    position = torch.arange(length, dtype=torch.float64)[:, None]
    frequency = torch.exp(torch.arange(0, width, 2, dtype=torch.float64) * (-math.log(10_000.0) / width))
    angle = position * frequency
    table = torch.empty(length, width, dtype=torch.float64)
    sines = (width + 1) // 2
    table[:, slice(0, None, 2) if interleaved else slice(0, sines)] = torch.sin(angle)
    table[:, slice(1, None, 2) if interleaved else slice(sines, None)] = torch.cos(angle)[:, : width // 2]
    return table


class SinusoidalPositions(Added):
    """Section 3.5. The table is no parameter and is not saved; it grows with the longest sequence."""

    def __init__(self, width: int, interleaved: bool) -> None:
        super().__init__()
        self.width, self.interleaved = width, interleaved
        self.table = torch.empty(0, width)

    def reserve(self, length: int) -> None:
        if len(self.table) < length:
            rows = max(256, 1 << (length - 1).bit_length())
            self.table = sinusoids(rows, self.width, self.interleaved).to(self.table)

    def forward(self, embedded: Tensor, positions: Tensor | None, scale: float = 1.0) -> Tensor:
        if self.table.dtype != embedded.dtype or self.table.device != embedded.device:
            # The table is made again and not converted, so that an fp64 model has fp64 sinusoids.
            rows, self.table = len(self.table), embedded.new_empty(0, self.width, requires_grad=False)
            self.reserve(rows)
        if positions is None:
            self.reserve(embedded.shape[-2])
            return torch.add(self.table[: embedded.shape[-2]], embedded, alpha=scale)
        return torch.add(F.embedding(positions, self.table), embedded, alpha=scale)


class LearnedPositions(Added):
    """A learned vector for each position: position p is row offset + p of the table."""

    def __init__(self, length: int, width: int, offset: int = 0) -> None:
        super().__init__()
        self.limit: int = length
        self.offset = offset
        self.weight = nn.Parameter(torch.empty(offset + length, width))
        nn.init.normal_(self.weight, 0, width**-0.5)  # not Tensor.normal_, whose meta kernel imports the compiler

    def reserve(self, length: int) -> None:
        if length > self.limit:
            raise TooLong(f"{length} positions are asked for, and {self.limit} were learned")

    def forward(self, embedded: Tensor, positions: Tensor | None, scale: float = 1.0) -> Tensor:
        if positions is None:
            self.reserve(embedded.shape[-2])
            rows = self.weight[self.offset : self.offset + embedded.shape[-2]]
            return torch.add(rows, embedded, alpha=scale)
        rows = positions + self.offset if self.offset else positions
        return torch.add(F.embedding(rows, self.weight), embedded, alpha=scale)


class PositionBias(nn.Module):
    """A bias on the scores of self-attention, from positions alone."""

    def forward(self, queries: int, keys: int, layout: Layout, device: torch.device) -> Tensor:
        """The bias [B or 1, H, Q, S] on ``device``, computed once per forward for all layers of a stack."""
        raise NotImplementedError


class RelativePositionBias(PositionBias):
    """A learned number for each head and bucket of key position − query position; far distances share buckets."""

    def __init__(self, heads: int, buckets: int, distance: int, causal: bool) -> None:
        super().__init__()
        self.buckets, self.distance, self.causal = buckets, distance, causal
        self.weight = nn.Parameter(torch.zeros(buckets, heads))

    def forward(self, queries: int, keys: int, layout: Layout, device: torch.device) -> Tensor:
        bucket = self.bucket(layout.distances(queries, keys, device))  # [B, Q, S]
        return F.embedding(bucket, self.weight).permute(0, 3, 1, 2)

    def bucket(self, distance: Tensor) -> Tensor:
        """The bucket of each distance: small distances have one each, the others share buckets of logarithmic widths.

        Causal stacks use all buckets for keys before the query, others use half of them for each side.
        """
        buckets, offset = self.buckets, torch.zeros_like(distance)
        if self.causal:
            distance = (-distance).clamp(min=0)
        else:
            buckets //= 2
            offset = (distance > 0) * buckets
            distance = distance.abs()
        exact = buckets // 2
        far = torch.log(distance.clamp(min=1).float() / exact) / math.log(self.distance / exact) * (buckets - exact)
        far = (exact + far.clamp(min=0).long()).clamp(max=buckets - 1)
        return offset + torch.where(distance < exact, distance, far)


def alibi_slopes(heads: int, device: torch.device) -> Tensor:
    """ALiBi's slope m of each head, [H] in fp32: 2^(-8h/H) for h = 1 … H.

    Of a number of heads that is no power of two, the first n, the power of two below, have the slopes of n heads, and
    the others every second one of those of 2n heads, as in the authors' code.
    """
    below = 1 << (heads.bit_length() - 1)
    steps = torch.arange(1, 2 * below + 1, device=device, dtype=torch.float32)
    return torch.exp2(torch.cat([steps[1::2], steps[::2]])[:heads] * (-4 / below))


class LinearBias(PositionBias):
    """−m · |key position − query position| with a slope m for each head (Press et al. 2022, section 3)."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads

    def forward(self, queries: int, keys: int, layout: Layout, device: torch.device) -> Tensor:
        distance = layout.distances(queries, keys, device).abs()[:, None]  # [B or 1, 1, Q, S]
        return distance * -alibi_slopes(self.heads, device)[:, None, None]
