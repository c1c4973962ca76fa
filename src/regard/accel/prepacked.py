"""Linear layers whose weights are laid out once, for inference on a CPU; and a model made of them for decoding.

PyTorch's own product lays out the weight anew at every call, and in fp32 asks MKL, which keeps to AVX2 on AMD's
processors. The compiled loops (native.py) and oneDNN use all that the processor has; with few rows the loops are 1.3 to
10 times faster, with many as fast. In bf16 only these products are in bf16: what lies between them is in fp32, since
casting costs less than PyTorch's other operators lose in bf16.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from regard.accel import native
from regard.accel.int8 import Int8Linear
from regard.accel.linear import available
from regard.accel.stack import CompiledStack, fits
from regard.nn.embedding import Table

WIDE = 256  # inputs from which a product in fp32 by oneDNN is faster so
MANY = 4096  # outputs from which it is too, with fewer inputs: a large table, which is laid out anew at every call


class PackedLinear(nn.Module):
    """What a ``nn.Linear`` computes, [*, in] → [*, out], whatever the type of x; for inference alone."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.outputs, self.dtype = len(weight), weight.dtype
        loops = native.multiplying(weight.dtype)
        self.matrix = native.Matrix(loops, weight, bias) if loops else None
        if self.matrix is None:
            self.packed = torch.ops.mkldnn._reorder_linear_weight.default(weight.detach().contiguous(), None)
            self.bias = None if bias is None else bias.detach()
            self._product = torch.ops.mkldnn._linear_pointwise.default

    def forward(self, x: Tensor) -> Tensor:
        if self.matrix is not None:
            return self.matrix(x.float()).to(x.dtype)
        found: Tensor = self._product(x.to(self.dtype), self.packed, self.bias, "none", [], "")
        return found.to(x.dtype)

    def extra_repr(self) -> str:
        return f"out_features={self.outputs}"


def gains(weight: Tensor) -> bool:
    """Whether a product with this weight [out, in] is faster packed: by oneDNN a narrow one in fp32 is not."""
    outputs, inputs = weight.shape
    if native.multiplying(weight.dtype):
        return True
    return available(weight.dtype) and (weight.dtype == torch.bfloat16 or inputs >= WIDE or outputs >= MANY)


def twin(model: Any) -> Any:
    """The model for decoding: packed and compiled where that gains, its tables shared.

    The model itself is left as it is.
    """
    ready = (module for module in model.modules() if isinstance(module, Int8Linear))
    shared: dict[int, Any] = {id(part): part for part in (*model.parameters(), *model.buffers(), *ready)}
    with torch.no_grad():
        other = copy.deepcopy(model, shared)
        other.pack_output()
        output, other.output = other.output, None  # an output table of its own is still to be read
        dtype = model.output_table()[0].dtype
        replace(other)
        other.output = output
        if dtype == torch.bfloat16:
            in_fp32(other)
        if dtype in (torch.float32, torch.bfloat16) and (loops := native.library()):
            other.native = loops
            for name, child in list(other.named_children()):
                if fits(child):
                    setattr(other, name, CompiledStack(child, loops))
            narrow = dtype == torch.bfloat16 or isinstance(other.prepared_output, Int8Linear)
            if narrow and isinstance(getattr(other, "decoder", None), CompiledStack):
                other.cache_dtype = torch.bfloat16
    return other.eval()


def replace(module: nn.Module) -> None:
    """Every linear layer below a module that gains by it gives its place to a packed one."""
    for name, child in module.named_children():
        if not isinstance(child, nn.Linear):
            replace(child)
        elif gains(child.weight):
            setattr(module, name, PackedLinear(child.weight, child.bias))


def in_fp32(module: nn.Module) -> None:
    """All that is not packed computes in fp32; tables stay as they are, and what is looked up in them is cast."""
    for child in module.children():
        if isinstance(child, Table):
            child.dtype = torch.float32
        elif not isinstance(child, nn.Linear):
            in_fp32(child)
    for name, parameter in list(module._parameters.items()):
        if parameter is not None:
            module._parameters[name] = nn.Parameter(parameter.float(), requires_grad=False)
