"""Linear layers whose weights are laid out once, for inference on a CPU.

PyTorch's own product lays out the weight anew at every call, and in fp32 is MKL's, which uses only AVX2 on AMD's
processors. The native kernels (native.py) and oneDNN use all that the processor has: with few rows the kernels are
1.3 to 10 times faster, with many as fast. A model in bf16 has only these products in bf16, and all other operators in
fp32: casting costs less than PyTorch's other operators lose in bf16.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from regard.accel import native
from regard.accel.fits import plain
from regard.accel.linear import available
from regard.accel.native import Weight
from regard.accel.thresholds import PREPACKED_INPUTS, PREPACKED_OUTPUTS
from regard.nn.embedding import Table
from regard.nn.linear import Linear

LINEAR = (nn.Linear, Linear)  # the layers that can be replaced; a subclass may compute something else


class PrepackedLinear(nn.Module):
    """Computes a ``nn.Linear``, [*, in] → [*, out], for x of any type; for inference alone."""

    def __init__(self, weight: Weight, bias: Tensor | None) -> None:
        super().__init__()
        (self.outputs, self.inputs), self.dtype = weight.shape, weight.dtype
        kernels = native.multiplying(weight.dtype)
        self.matrix = native.Matrix(kernels, weight, bias) if kernels else None
        if self.matrix is None:
            self.prepacked = torch.ops.mkldnn._reorder_linear_weight.default(weight[:].detach().contiguous(), None)
            self.bias = None if bias is None else bias.detach()
            self._product = torch.ops.mkldnn._linear_pointwise.default

    def forward(self, x: Tensor) -> Tensor:
        if self.matrix is not None:
            return self.matrix(x.float()).to(x.dtype)
        found: Tensor = self._product(x.to(self.dtype), self.prepacked, self.bias, "none", [], "")
        return found.to(x.dtype)

    @property
    def weight(self) -> Tensor:
        """The weight [out, in], made from the prepacked one at each call."""
        if self.matrix is not None:
            return unpacked(self.matrix)
        weight: Tensor = self.prepacked.to_dense()
        return weight

    def extra_repr(self) -> str:
        return f"in_features={self.inputs}, out_features={self.outputs}"


class PrepackedTable(nn.Module):
    """Looks ids [*] up in a prepacked matrix → vectors [*, D], so that a table is held once for both of its uses.

    ``weight`` has the shape, type and place of the table, and no numbers: it is full of NaN. ``dtype`` as in ``Table``.
    """

    def __init__(self, matrix: native.Matrix, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.matrix, self.dtype = matrix, dtype

    def forward(self, ids: Tensor) -> Tensor:
        found = self.matrix.rows(ids)
        return found if self.dtype is None else found.to(self.dtype)

    @property
    def weight(self) -> Tensor:
        nothing = torch.full((), torch.nan, dtype=self.matrix._tensors[0].dtype)
        return nothing.expand(self.matrix.outputs, self.matrix.linear.inputs)


def unpacked(matrix: native.Matrix) -> Tensor:
    """The weight [out, in] that a matrix was made of, in its type."""
    laid_out = matrix._tensors[0]  # [panels, units, outputs of a panel, inputs of a unit]
    panels, units, outputs, inputs = laid_out.shape
    whole = laid_out.transpose(1, 2).reshape(panels * outputs, units * inputs)
    return whole[: matrix.outputs, : matrix.linear.inputs]


def gains(weight: Tensor | Weight) -> bool:
    """Whether a product with this weight [out, in] is faster prepacked: by oneDNN a small one in fp32 is not."""
    outputs, inputs = weight.shape
    if native.multiplying(weight.dtype):
        return True
    large = inputs >= PREPACKED_INPUTS or outputs >= PREPACKED_OUTPUTS
    return available(weight.dtype) and (weight.dtype == torch.bfloat16 or large)


def prepack(module: nn.Module, table: Tensor) -> None:
    """Replaces every linear layer below a module that gains by it by a ``PrepackedLinear``.

    A layer whose weight is the output ``table`` stays, since others read the table. Unknown kinds of layers stay too.
    """
    for name, child in module.named_children():
        if not plain(child, *LINEAR):
            prepack(child, table)
        elif isinstance(child, nn.Linear) and child.weight is not table and gains(child.weight):
            setattr(module, name, PrepackedLinear(child.weight, child.bias))


def in_fp32(module: nn.Module, table: Tensor) -> None:
    """All that is not prepacked computes in fp32; tables keep their type, and vectors read from them are cast."""
    for child in module.children():
        if isinstance(child, PrepackedTable) or type(child) is Table:
            child.dtype = torch.float32
        elif not (isinstance(child, nn.Linear) and child.weight is table):
            in_fp32(child, table)
    for name, parameter in list(module._parameters.items()):
        if parameter is not None:
            module._parameters[name] = nn.Parameter(parameter.float(), requires_grad=False)
