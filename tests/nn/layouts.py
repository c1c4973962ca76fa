"""The layouts on which kernels are compared with the equation."""

from __future__ import annotations

from collections.abc import Callable

import torch

from regard.nn.layout import Layout

B, H, Q, S, K = 3, 4, 5, 7, 8

LAYOUTS: dict[str, Callable[[int, int], Layout]] = {
    "everything": lambda q, s: Layout(),
    "padded": lambda q, s: Layout.cross(torch.tensor([s, 2, 1]), s),
    "causal": lambda q, s: Layout(causal=True),
    "cached": lambda q, s: Layout.cached(torch.rand(B, q, s) > 0.4, torch.zeros(B, q, dtype=torch.int64)),
    "nothing seen": lambda q, s: Layout.cross(torch.tensor([s, 0, 0]), s),
}
