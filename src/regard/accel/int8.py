"""Linear layers in int8, for decoding on a CPU: a byte a number where fp32 has four.

A weight is cut to steps of its output row, an activation to steps of its own row: what a sentence gives does not depend
on those it shares a batch with.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from regard.accel import native

VNNI = bool(getattr(torch.cpu, "_is_vnni_supported", bool)())
# Steps on either side of 0: in oneDNN, without VNNI, two products of u8 × i8 share 16 bits.
ACTIVATIONS, WEIGHTS = 127, 127 if VNNI else 63
WIDE = 256  # inputs from which cutting them pays where PyTorch's operators do it
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
        self.dtype, loops = dtype, native.multiplying(torch.int8)
        weight = weight.detach().float()
        self.outputs = len(weight)
        step = weight.abs().amax(1).clamp_(min=LEAST).div_(loops.weight_limit if loops else WEIGHTS)  # [out]
        rounded = (weight / step[:, None]).round_().to(torch.int8)
        self.matrix = native.Matrix(loops, rounded, bias, step) if loops else None
        if self.matrix is None:
            self.step, self.zero = step, torch.zeros(self.outputs, dtype=torch.int32)
            self.packed = torch.ops.onednn.qlinear_prepack(rounded, None)
            self.bias = torch.zeros(self.outputs) if bias is None else bias.detach().float()

    def forward(self, x: Tensor) -> Tensor:
        if self.matrix is not None:
            return self.matrix(x.float()).to(self.dtype or x.dtype)
        cut, step = quantized(x.reshape(-1, x.shape[-1]).float())
        found: Tensor = torch.ops.onednn.qlinear_pointwise.default(
            cut, 1.0, OFFSET, self.packed, self.step, self.zero, None, 1.0, 0, torch.float32, "none", [], ""
        )
        out = found.mul_(step[:, None]).add_(self.bias)
        return out.view(*x.shape[:-1], self.outputs).to(self.dtype or x.dtype)

    def extra_repr(self) -> str:
        return f"out_features={self.outputs}"


def quantized(rows: Tensor) -> tuple[Tensor, Tensor]:
    """[R, K] → bytes [R, K], 128 standing for 0, and the step of each row [R].

    An operator a pass: what would take fewer, addcmul and uint8, takes PyTorch longer.
    """
    step = rows.abs().amax(1, keepdim=True).clamp_(min=LEAST).div_(ACTIVATIONS)
    return rows.div(step).round_().to(torch.int8).view(torch.uint8).bitwise_xor_(OFFSET), step[:, 0]


def in_int8(module: nn.Module) -> None:
    """Every ``nn.Linear`` below a module that is wide enough gives its place to an ``Int8Linear``."""
    wide = 1 if native.multiplying(torch.int8) else WIDE
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            if child.in_features >= wide:
                setattr(module, name, Int8Linear(child.weight, child.bias))
        else:
            in_int8(child)
