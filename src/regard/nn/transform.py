"""BERT's transform of hidden states before the output table (Devlin et al. 2018; its published code)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from regard.nn.feedforward import ACTIVATIONS, Activation
from regard.nn.linear import Linear
from regard.nn.norm import Norm


@dataclass(frozen=True, kw_only=True)
class Transform:
    """Spec: a linear layer D → D, an ``activation`` and a ``norm``."""

    activation: Activation
    norm: Norm

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, and is {self.activation!r}")

    def build(self, width: int) -> HiddenTransform:
        """The module for hidden states of ``width``."""
        return HiddenTransform(self, width)


class HiddenTransform(nn.Module):
    """Norm(activation(xW + b))."""

    def __init__(self, spec: Transform, width: int) -> None:
        super().__init__()
        self.spec = spec
        self.linear = Linear(width, width)
        self.activation = ACTIVATIONS[spec.activation]()
        self.norm = spec.norm.build(width)

    def forward(self, x: Tensor) -> Tensor:
        """[*, D] → [*, D]."""
        out: Tensor = self.norm(self.activation(self.linear(x)))
        return out
