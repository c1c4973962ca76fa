"""Normalisation: layer norm as in the paper, and RMS norm. Statistics are fp32 in every precision."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class LayerNorm:
    """Spec of layer normalisation (Ba et al. 2016): centred, scaled, with gain and bias."""

    eps: float = 1e-5
    bias: bool = True

    def __post_init__(self) -> None:
        _check_eps(self.eps)

    def build(self, width: int) -> nn.Module:
        built = nn.LayerNorm(width, eps=self.eps, bias=self.bias)
        built.spec = self  # type: ignore[assignment]  # every part keeps its spec
        return built


@dataclass(frozen=True)
class RMSNorm:
    """Spec of root-mean-square normalisation (Zhang & Sennrich 2019): scaled only, with a gain."""

    eps: float = 1e-6

    def __post_init__(self) -> None:
        _check_eps(self.eps)

    def build(self, width: int) -> nn.Module:
        return RootMeanSquareNorm(self, width)


Norm = LayerNorm | RMSNorm


def _check_eps(eps: float) -> None:
    if not 0 <= eps < 1:
        raise ValueError(f"eps={eps} must be at least 0 and less than 1")


class RootMeanSquareNorm(nn.Module):
    """x / √(mean(x²) + ε) · gain over the last axis, computed in at least fp32."""

    def __init__(self, spec: RMSNorm, width: int) -> None:
        super().__init__()
        self.spec, self.eps = spec, spec.eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """[*, D] → [*, D]."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        normal = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return (normal * self.weight).to(x.dtype)
