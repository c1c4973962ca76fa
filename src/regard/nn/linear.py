"""Linear layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard.nn.ops import Operation


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x [*, in], weight [out, in], bias [out] → x @ weightᵀ + bias, [*, out]."""
    return F.linear(x, weight, bias)


linear = Operation(_linear)


class Linear(nn.Linear):
    """``nn.Linear``, x [*, in] → [*, out], whose product is an operation that a faster way may take over."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


def type_of_products(x: Tensor) -> torch.dtype:
    """The type in which products with x are computed: autocast may have another than x's, and leaves fp64 alone."""
    device = x.device.type
    autocast = torch.is_autocast_enabled(device) and x.dtype != torch.float64
    return torch.get_autocast_dtype(device) if autocast else x.dtype
