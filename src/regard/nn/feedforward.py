"""The position-wise feed-forward network (section 3.3, equation 2), with a choice of activation and a gate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import Tensor, nn

from regard.nn.dropout import Dropout
from regard.nn.linear import Linear

Activation = Literal["relu", "gelu", "gelu_tanh", "silu"]

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "gelu_tanh": partial(nn.GELU, approximate="tanh"),
    "silu": nn.SiLU,
}


@dataclass(frozen=True, kw_only=True)
class FeedForward:
    """Spec: inner ``width`` F, ``activation``, and ``gated`` for activation(xW_g) · xW_1 (Shazeer 2020)."""

    width: int
    activation: Activation = "relu"
    gated: bool = False
    bias: bool = True
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, and is {self.activation!r}")

    def build(self, width: int) -> PositionWise:
        return PositionWise(self, width)


class PositionWise(nn.Module):
    """Equation (2), FFN(x) = max(0, xW₁ + b₁)W₂ + b₂, at each position alike."""

    def __init__(self, spec: FeedForward, width: int) -> None:
        super().__init__()
        self.spec = spec
        self.input = Linear(width, spec.width, bias=spec.bias)
        self.gate = Linear(width, spec.width, bias=spec.bias) if spec.gated else None
        self.activation = ACTIVATIONS[spec.activation]()
        self.dropout = Dropout(spec.dropout)
        self.output = Linear(spec.width, width, bias=spec.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[*, D] → [*, F] → [*, D]."""
        inner = self.input(x)
        inner = self.activation(inner) if self.gate is None else self.activation(self.gate(x)) * inner
        out: Tensor = self.output(self.dropout(inner))
        return out
