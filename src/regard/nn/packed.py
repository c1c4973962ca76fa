"""Linear layers whose weights are laid out once for oneDNN, for inference on a CPU.

PyTorch's own product lays out the weight anew at every call, and in fp32 asks MKL, which keeps to AVX2 on AMD's
processors. oneDNN's uses all that the processor has.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from regard.nn.int8 import Int8Linear

WIDE = 256  # inputs from which a product in fp32 is faster so


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
    """What a ``nn.Linear`` computes, [*, in] → [*, out]; for inference alone."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.outputs = len(weight)
        self.packed = torch.ops.mkldnn._reorder_linear_weight.default(weight.detach().contiguous(), None)
        self.bias = None if bias is None else bias.detach()
        self._product = torch.ops.mkldnn._linear_pointwise.default

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self._product(x, self.packed, self.bias, "none", [], "")
        return found

    def extra_repr(self) -> str:
        return f"out_features={self.outputs}"


def gains(weight: Tensor) -> bool:
    """Whether a product with this weight [out, in] is faster packed: a narrow one in fp32 is not."""
    return available(weight.dtype) and (weight.dtype == torch.bfloat16 or weight.shape[1] >= WIDE)


def twin(model: Any) -> Any:
    """The model for decoding: packed where that gains, all other tensors shared; the model itself is left as it is."""
    ready = (module for module in model.modules() if isinstance(module, Int8Linear))
    shared: dict[int, Any] = {id(part): part for part in (*model.parameters(), *model.buffers(), *ready)}
    with torch.no_grad():
        other = copy.deepcopy(model, shared)
        replace(other)
        other.pack_output()
    return other.eval()


def replace(module: nn.Module) -> None:
    """Every ``nn.Linear`` below a module that gains by it gives its place to a ``PackedLinear``."""
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            if gains(child.weight):
                setattr(module, name, PackedLinear(child.weight, child.bias))
        else:
            replace(child)
