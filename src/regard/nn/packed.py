"""Linear layers whose weights are laid out once for oneDNN, for inference on a CPU.

PyTorch's own product lays out the weight anew at every call, and in fp32 asks MKL, which keeps to AVX2 on AMD's
processors. oneDNN's uses all that the processor has. In bf16 only these products are in bf16: what lies between them
is in fp32, since casting costs less than PyTorch's other operators lose in bf16.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from regard.nn import native
from regard.nn.attention import Core
from regard.nn.embedding import Table
from regard.nn.int8 import Int8Linear

WIDE = 256  # inputs from which a product in fp32 is faster so
MANY = 4096  # outputs from which it is too, with fewer inputs: a large table, which is laid out anew at every call


def available(dtype: torch.dtype) -> bool:
    """Whether oneDNN's products gain here: with AVX-512 in fp32, and in bf16 where the processor multiplies it."""
    onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not onednn or not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        return False
    if dtype == torch.bfloat16:
        return multiplies_bf16()
    return dtype == torch.float32 and torch.backends.cpu.get_cpu_capability() == "AVX512"


def multiplies_bf16() -> bool:
    """Whether this processor has instructions for products in bf16, and not only a way to do without."""
    return any(
        bool(getattr(torch.cpu, name, bool)()) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )


class PackedLinear(nn.Module):
    """What a ``nn.Linear`` computes, [*, in] → [*, out], whatever the type of x; for inference alone."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.outputs, self.dtype = len(weight), weight.dtype
        self.packed = torch.ops.mkldnn._reorder_linear_weight.default(weight.detach().contiguous(), None)
        self.bias = None if bias is None else bias.detach()
        self._product = torch.ops.mkldnn._linear_pointwise.default

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self._product(x.to(self.dtype), self.packed, self.bias, "none", [], "")
        return found.to(x.dtype)

    def extra_repr(self) -> str:
        return f"out_features={self.outputs}"


def gains(weight: Tensor) -> bool:
    """Whether a product with this weight [out, in] is faster packed: a narrow one in fp32 is not."""
    outputs, inputs = weight.shape
    return available(weight.dtype) and (weight.dtype == torch.bfloat16 or inputs >= WIDE or outputs >= MANY)


def twin(model: Any) -> Any:
    """The model for decoding: packed and compiled (nn/native.py) where that gains, its tables shared.

    The model itself is left as it is.
    """
    ready = (module for module in model.modules() if isinstance(module, Int8Linear))
    shared: dict[int, Any] = {id(part): part for part in (*model.parameters(), *model.buffers(), *ready)}
    with torch.no_grad():
        other = copy.deepcopy(model, shared)
        other.pack_output()
        output, other.output = other.output, None  # an output table of its own is still to be read
        dtype = model.output_table()[0].dtype
        other.native = native.library() if dtype in (torch.float32, torch.bfloat16) else None
        replace(other, other.native)
        other.output = output
        if dtype == torch.bfloat16:
            in_fp32(other)
        if other.native and (dtype == torch.bfloat16 or isinstance(other.prepared_output, Int8Linear)):
            other.cache_dtype = torch.bfloat16
    return other.eval()


def replace(module: nn.Module, loops: native.Native | None) -> None:
    """What gains by it below a module gives its place: linear layers, attention's cores and norms."""
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            if gains(child.weight):
                setattr(module, name, PackedLinear(child.weight, child.bias))
        elif loops and isinstance(child, Core):
            setattr(module, name, native.NativeCore(child, loops))
        elif loops and isinstance(child, nn.LayerNorm) and child.bias is not None:
            setattr(module, name, native.NativeNorm(child, loops))
        else:
            replace(child, loops)


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
