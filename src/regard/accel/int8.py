"""Linear layers in int8, for decoding on a CPU: a byte a number where fp32 has four.

A weight is rounded to multiples of the scale of its output row, an activation to those of its own row: so the
results of a sentence do not depend on the others of its batch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from regard.accel import native, thresholds
from regard.accel.fits import plain
from regard.accel.native import Weight
from regard.accel.prepacked import LINEAR, unpacked

VNNI = bool(getattr(torch.cpu, "_is_vnni_supported", bool)())
# The largest integers on either side of 0. Without VNNI oneDNN adds two products u8 × i8 in 16 bits.
ACTIVATIONS, WEIGHTS = 127, 127 if VNNI else 63
LEAST = 1e-30  # the scale of a row of zeros
OFFSET = 128  # the unsigned byte that stands for 0; flipping the top bit of a signed byte adds 128


def available() -> bool:
    """Whether this build of PyTorch has oneDNN's integer products."""
    onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return onednn and hasattr(torch.ops.onednn, "qlinear_pointwise")


class Int8Linear(nn.Module):
    """Computes a ``nn.Linear``, [*, in] → [*, out], in int8 with sums in int32; for inference alone.

    ``dtype`` is the type of the result; None: that of the input.
    """

    def __init__(self, weight: Weight, bias: Tensor | None, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.dtype, kernels = dtype, native.multiplying(torch.int8)
        self.outputs, self.inputs = weight.shape
        rounded = _Rounded(weight, kernels.weight_limit if kernels else WEIGHTS)
        self.scale = scale = rounded.scale
        self.matrix = native.Matrix(kernels, rounded, bias, scale) if kernels else None
        if self.matrix is None:
            self.zero = torch.zeros(self.outputs, dtype=torch.int32)
            self.prepacked = torch.ops.onednn.qlinear_prepack(rounded[:], None)
            self.bias = torch.zeros(self.outputs) if bias is None else bias.detach().float()

    def forward(self, x: Tensor) -> Tensor:
        if self.matrix is not None:
            return self.matrix(x.float()).to(self.dtype or x.dtype)
        quantised, scale = quantized(x.reshape(-1, x.shape[-1]).float())
        found: Tensor = torch.ops.onednn.qlinear_pointwise.default(
            quantised, 1.0, OFFSET, self.prepacked, self.scale, self.zero, None, 1.0, 0, torch.float32, "none", [], ""
        )
        out = found.mul_(scale[:, None]).add_(self.bias)
        return out.view(*x.shape[:-1], self.outputs).to(self.dtype or x.dtype)

    @property
    def weight(self) -> Tensor:
        """The weight [out, in] in fp32 that the bytes stand for, made at each call."""
        rounded = self.prepacked.to_dense().T if self.matrix is None else unpacked(self.matrix)
        return rounded * self.scale[:, None]

    def extra_repr(self) -> str:
        return f"in_features={self.inputs}, out_features={self.outputs}"


class _Rounded:
    """The rows of a weight as integers of at most ``limit``, made when they are asked for; ``scale`` [out]."""

    dtype = torch.int8

    def __init__(self, weight: Weight, limit: int) -> None:
        self.weight, self.shape = weight, weight.shape
        step = max(1, native.PACKED_AT_ONCE // weight.shape[1])
        most = [
            weight[start : start + step].detach().float().abs().amax(1) for start in range(0, weight.shape[0], step)
        ]
        self.scale = torch.cat(most).clamp_(min=LEAST).div_(limit)

    def __getitem__(self, rows: slice) -> Tensor:
        return (self.weight[rows].detach().float() / self.scale[rows, None]).round_().to(torch.int8)


def quantized(rows: Tensor) -> tuple[Tensor, Tensor]:
    """[R, K] → bytes [R, K], 128 standing for 0, and the scale of each row [R].

    Each pass over memory is one operator: with addcmul or uint8 there would be fewer, but they take PyTorch longer.
    """
    scale = rows.abs().amax(1, keepdim=True).clamp_(min=LEAST).div_(ACTIVATIONS)
    return rows.div(scale).round_().to(torch.int8).view(torch.uint8).bitwise_xor_(OFFSET), scale[:, 0]


def in_int8(module: nn.Module, table: Tensor | None = None) -> None:
    """Replaces every ``nn.Linear`` below a module that is wide enough by an ``Int8Linear``.

    A layer whose weight is the output ``table`` stays, since others read the table. Unknown kinds of layers stay too.
    """
    for name, child in module.named_children():
        if not plain(child, *LINEAR):
            in_int8(child, table)
        elif isinstance(child, nn.Linear) and is_wide(child) and child.weight is not table:
            setattr(module, name, Int8Linear(child.weight, child.bias))


def is_wide(linear: nn.Linear) -> bool:
    """Whether a layer is faster in int8: by oneDNN a narrow one is not."""
    return linear.in_features >= (1 if native.multiplying(torch.int8) else thresholds.INT8_INPUTS)
