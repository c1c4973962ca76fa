"""Rotary positions (Su et al. 2021): the angles of positions, the scalings of their frequencies, and the rotation.

Their spec is ``regard.nn.positions.Rotary``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class LinearScaling:
    """Spec of positions divided by ``factor`` before they are rotated (Chen et al. 2023)."""

    factor: float

    def __post_init__(self) -> None:
        _check_factor(self.factor)

    def scaled(self, frequency: Tensor) -> Tensor:
        """The frequencies [K/2] by which positions are multiplied, from those without scaling, [K/2]."""
        return frequency / self.factor


@dataclass(frozen=True)
class Llama3Scaling:
    """Spec of LLaMA 3.1's scaling, by the wavelength of each frequency, 2π / frequency (the LLaMA 3 model code).

    Frequencies of wavelengths below original_length / ``high_frequency_factor`` stay; those of wavelengths above
    original_length / ``low_frequency_factor`` are divided by ``factor``; between the two they are interpolated.
    ``original_length``: how many positions the texts of the first training had.
    """

    factor: float = 8.0
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    original_length: int = 8192

    def __post_init__(self) -> None:
        _check_factor(self.factor)
        if not 0 < self.low_frequency_factor < self.high_frequency_factor < math.inf:
            raise ValueError(
                f"low_frequency_factor={self.low_frequency_factor} must be more than 0 and less than "
                f"high_frequency_factor={self.high_frequency_factor}"
            )
        if self.original_length < 1:
            raise ValueError(f"original_length={self.original_length} must be at least 1")

    def scaled(self, frequency: Tensor) -> Tensor:
        """The frequencies [K/2] by which positions are multiplied, from those without scaling, [K/2]."""
        low, high = self.low_frequency_factor, self.high_frequency_factor
        wavelength = 2 * math.pi / frequency
        long_divided = torch.where(wavelength > self.original_length / low, frequency / self.factor, frequency)
        share = (self.original_length / wavelength - low) / (high - low)
        between = (1 - share) * long_divided / self.factor + share * long_divided
        is_between = (wavelength >= self.original_length / high) & (wavelength <= self.original_length / low)
        return torch.where(is_between, between, long_divided)


Scaling = Llama3Scaling | LinearScaling


def _check_factor(factor: float) -> None:
    if not 1 <= factor < math.inf:
        raise ValueError(f"factor={factor} must be at least 1")


class RotaryPositions(nn.Module):
    """Makes rotations of the pair (x_i, x_{i + K/2}) of each head by the angle position · frequency_i.

    frequency_i is theta^(-2i/K), changed by ``scaling`` if there is one. ValueError where the head width K is odd.
    """

    def __init__(self, head_width: int, theta: float, scaling: Scaling | None = None) -> None:
        super().__init__()
        if head_width % 2:
            raise ValueError(f"rotary positions need an even head width, and it is {head_width}")
        self.head_width, self.theta, self.scaling = head_width, theta, scaling

    def forward(self, size: int, positions: Tensor | None, device: torch.device) -> Rotated:
        """The rotation by ``positions`` [B, T] (None: 0 … size-1), made once per forward for all layers of a stack."""
        positions = torch.arange(size, device=device)[None] if positions is None else positions
        exponent = torch.arange(0, self.head_width, 2, device=device, dtype=torch.float32) / self.head_width
        frequency = 1 / self.theta**exponent  # as in the published code, whose rounding counts at far positions
        frequency = frequency if self.scaling is None else self.scaling.scaled(frequency)
        angle = positions[..., None].to(torch.float32) * frequency  # [B, T, K/2]
        return Rotated(angle.cos().unsqueeze(1), angle.sin().unsqueeze(1))


@dataclass(frozen=True)
class Rotated:
    """Cosines and sines [B, 1, T, K/2] in fp32, applied to heads [B, H, T, K]."""

    cosine: Tensor
    sine: Tensor

    def __call__(self, heads: Tensor) -> Tensor:
        """heads [B, H, T, K] → the rotated heads, of the same type."""
        first, second = heads.chunk(2, dim=-1)
        cosine, sine = self.cosine, self.sine
        return torch.cat([first * cosine - second * sine, second * cosine + first * sine], -1).to(heads.dtype)
