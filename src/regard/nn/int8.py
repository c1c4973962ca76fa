"""Linear layers in int8, for decoding on a CPU: a byte a number where fp32 has four.

A weight is cut to steps of its output row, an activation to steps of its own row: what a sentence gives does not depend
on those it shares a batch with.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

VNNI = bool(getattr(torch.cpu, "_is_vnni_supported", bool)())
# Steps on either side of 0: without VNNI two products of u8 × i8 share 16 bits.
ACTIVATIONS, WEIGHTS = 127, 127 if VNNI else 63
WIDE = 256  # inputs from which cutting them pays
LEAST = 1e-30  # the step of a row of zeros
OFFSET = 128  # the byte that stands for 0


def available() -> bool:
    """Whether this build of PyTorch has oneDNN's integer products."""
    onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return onednn and hasattr(torch.ops.onednn, "qlinear_pointwise")


class Int8Linear(nn.Module):
    """What a ``nn.Linear`` computes, [*, in] → [*, out], in int8 with sums in int32; for inference alone.

    What comes out is of ``dtype``, or if there is none of that of what goes in.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.dtype = dtype
        weight = weight.detach().float()
        self.outputs = len(weight)
        step = weight.abs().amax(1).clamp_(min=LEAST).div_(WEIGHTS)  # [out]
        rounded = (weight / step[:, None]).round_().to(torch.int8)
        self.step, self.zero = step, torch.zeros(self.outputs, dtype=torch.int32)
        self.packed = torch.ops.onednn.qlinear_prepack(rounded, None)
        self.bias = torch.zeros(self.outputs) if bias is None else bias.detach().float()
        self.offset = torch.tensor(OFFSET + 0.5)  # conversion to a byte cuts off, so that this rounds

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1]).float()
        step = rows.abs().amax(1, keepdim=True).clamp_(min=LEAST).div_(ACTIVATIONS)  # [rows, 1]
        found = torch.ops.onednn.qlinear_pointwise.default(
            torch.addcdiv(self.offset, rows, step).to(torch.uint8), 1.0, OFFSET, self.packed, self.step, self.zero,
            None, 1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        return torch.addcmul(self.bias, found, step).view(*x.shape[:-1], self.outputs).to(self.dtype or x.dtype)

    def extra_repr(self) -> str:
        return f"out_features={self.outputs}"


def in_int8(module: nn.Module) -> None:
    """Every ``nn.Linear`` below a module that is ``WIDE`` enough gives its place to an ``Int8Linear``."""
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            if child.in_features >= WIDE:
                setattr(module, name, Int8Linear(child.weight, child.bias))
        else:
            in_int8(child)
