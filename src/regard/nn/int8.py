"""Linear layers in int8, for decoding on a CPU: a byte a number where fp32 has four.

A weight is cut to steps of its output row, an activation to steps of its own row: what a sentence gives does not depend
on those it shares a batch with.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from regard.nn import native

VNNI = bool(getattr(torch.cpu, "_is_vnni_supported", bool)())
# Steps on either side of 0: without VNNI two products of u8 × i8 share 16 bits.
ACTIVATIONS, WEIGHTS = 127, 127 if VNNI else 63
WIDE = 256  # inputs from which cutting them pays where PyTorch's operators do it
FEW = 1 << 21  # multiplications up to which what oneDNN does before them takes longer than they do
LEAST = 1e-30  # the step of a row of zeros
OFFSET = 128  # the byte that stands for 0: flipping the top bit of a signed byte adds as much


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
        self.dtype, self.native = dtype, native.library()
        weight = weight.detach().float()
        self.outputs = len(weight)
        step = weight.abs().amax(1).clamp_(min=LEAST).div_(WEIGHTS)  # [out]
        rounded = (weight / step[:, None]).round_().to(torch.int8)
        self.step, self.zero = step, torch.zeros(self.outputs, dtype=torch.int32)
        if self.native:
            self.weight, self.sums = rounded, rounded.sum(1, dtype=torch.int32)
        self.packed = torch.ops.onednn.qlinear_prepack(rounded, None)
        self.bias = torch.zeros(self.outputs) if bias is None else bias.detach().float()

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1]).float()
        loops = self.native
        if loops and rows.numel() * self.outputs <= FEW:  # the same bits, by a shorter way
            out = loops.product(rows, LEAST, self.weight, self.sums, self.step, self.bias)
        else:
            cut, step = loops.quantized(rows, LEAST) if loops else quantized(rows)
            found = torch.ops.onednn.qlinear_pointwise.default(
                cut, 1.0, OFFSET, self.packed, self.step, self.zero, None, 1.0, 0, torch.float32, "none", [], ""
            )
            out = loops.rescale(found, step, self.bias) if loops else found.mul_(step[:, None]).add_(self.bias)
        return out.view(*x.shape[:-1], self.outputs).to(self.dtype or x.dtype)

    def extra_repr(self) -> str:
        return f"out_features={self.outputs}"


def quantized(rows: Tensor) -> tuple[Tensor, Tensor]:
    """As ``Native.quantized``, an operator a pass: what would take fewer, addcmul and uint8, takes PyTorch longer."""
    step = rows.abs().amax(1, keepdim=True).clamp_(min=LEAST).div_(ACTIVATIONS)
    return rows.div(step).round_().to(torch.int8).view(torch.uint8).bitwise_xor_(OFFSET), step[:, 0]


def in_int8(module: nn.Module) -> None:
    """Every ``nn.Linear`` below a module that is wide enough gives its place to an ``Int8Linear``."""
    wide = 1 if native.library() else WIDE
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            if child.in_features >= wide:
                setattr(module, name, Int8Linear(child.weight, child.bias))
        else:
            in_int8(child)
