"""The residual connection and its norm around a sub-layer (section 5.4), written once for all layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from regard.nn.dropout import Dropout
from regard.nn.norm import Norm

Order = Literal["post", "pre"]


@dataclass(frozen=True, kw_only=True)
class Wiring:
    """Spec of a ``Residual``."""

    norm: Norm
    dropout: float
    order: Order


class Residual(nn.Module):
    """``post`` (the paper): Norm(x + Dropout(Sublayer(x))); ``pre``: x + Dropout(Sublayer(Norm(x))).

    ::

        post   x ──┬── sub-layer ── dropout ── + ── norm ──▶        pre   x ──┬── norm ── sub-layer ── dropout ── + ──▶
                   └────────────────────────── ┘                              └────────────────────────────────── ┘
    """

    def __init__(self, width: int, norm: Norm, dropout: float, order: Order) -> None:
        super().__init__()
        self.spec = Wiring(norm=norm, dropout=dropout, order=order)
        self.order = order
        self.norm = norm.build(width)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        """x [*, D] → [*, D]; ``sublayer`` keeps the shape."""
        out: Tensor
        if self.order == "pre":
            out = self.dropout(sublayer(self.norm(x)), x)
        else:
            out = self.norm(self.dropout(sublayer(x), x))
        return out

    def extra_repr(self) -> str:
        return f"order={self.order}"
