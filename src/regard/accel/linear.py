"""Linear layers, whose products go in training on a CPU to whoever is fastest: in fp32 the loops, in bf16 oneDNN.

PyTorch asks MKL for a product in fp32, which keeps to AVX2 on AMD's processors, and in bf16 writes the bias first and
adds the product to it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from regard.accel import native
from regard.accel.native import Native


class Linear(nn.Linear):
    """``nn.Linear``: x [*, in] → [*, out]."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or x.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(x)
        dtype = type_of_products(x)
        loops = native.for_training(x, dtype)
        wide = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")  # elsewhere nobody has measured
        in_loops = wide and loops is not None and dtype == torch.float32 and torch.get_num_threads() == 1
        if not in_loops and not (dtype == torch.bfloat16 and available(dtype)):
            return super().forward(x)
        out: Tensor = _Product.apply(x, self.weight, self.bias, dtype, loops)  # type: ignore[no-untyped-call]
        return out


def type_of_products(x: Tensor) -> torch.dtype:
    """The type that products with x are made in: autocast may have another than x's."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


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


class _Product(torch.autograd.Function):
    """In bf16 by oneDNN, in fp32 by the loops; the gradients of weights by PyTorch, with which neither keeps up."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, loops: Native | None
    ) -> Tensor:
        rows, matrix = x.flatten(0, -2).to(dtype), weight.to(dtype)
        bias_then = None if bias is None else bias.to(dtype)
        if loops and dtype == torch.float32:
            out = loops.product_once(rows, matrix, bias_then)
        else:
            out = torch.ops.mkldnn._linear_pointwise.default(rows, matrix, bias_then, "none", [], "")
        ctx.save_for_backward(rows, matrix)
        ctx.loops, ctx.shape, ctx.types = loops, x.shape, (x.dtype, weight.dtype)
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, matrix = ctx.saved_tensors
        of_x, of_weight = ctx.types
        gradient = gradient.flatten(0, -2).contiguous()
        d_x = d_weight = d_bias = None
        if ctx.needs_input_grad[0]:
            in_loops = ctx.loops and gradient.dtype == torch.float32
            d_x = ctx.loops.product_once(gradient, matrix, None, transposed=True) if in_loops else gradient @ matrix
            d_x = d_x.view(ctx.shape).to(of_x)
        if ctx.needs_input_grad[1]:
            d_weight = (gradient.T @ rows).to(of_weight)
        if ctx.needs_input_grad[2]:
            d_bias = (ctx.loops.column_sums(gradient) if ctx.loops else gradient.sum(0)).to(of_weight)
        return d_x, d_weight, d_bias, None, None
