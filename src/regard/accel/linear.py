"""Products of linear layers in training on a CPU: in fp32 by the native kernels, in bf16 by oneDNN.

PyTorch's products are slower: in fp32 they are MKL's, which uses only AVX2 on AMD's processors, and in bf16 PyTorch
writes the bias first and then adds the product.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from regard.accel import native
from regard.accel.native import Native
from regard.nn.linear import type_of_products


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor | None:
    """The operation ``linear`` of nn/linear.py, in training on a CPU."""
    if x.device.type != "cpu" or torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return None
    if x.dim() < 2 or not x.numel():
        return None
    dtype = type_of_products(x)
    kernels = native.for_training(x, dtype)
    wide = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")  # elsewhere it was never measured
    by_kernels = wide and kernels is not None and dtype == torch.float32 and torch.get_num_threads() == 1
    if not by_kernels and not (dtype == torch.bfloat16 and available(dtype)):
        return None
    out: Tensor = _Product.apply(x, weight, bias, dtype, kernels)  # type: ignore[no-untyped-call]
    return out


def available(dtype: torch.dtype) -> bool:
    """Whether oneDNN's products are faster: in fp32 with AVX-512, in bf16 where the processor multiplies it."""
    onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not onednn or not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        return False
    if dtype == torch.bfloat16:
        return multiplies_bf16()
    return dtype == torch.float32 and torch.backends.cpu.get_cpu_capability() == "AVX512"


def multiplies_bf16() -> bool:
    """Whether this processor has instructions for products in bf16, rather than oneDNN emulating them."""
    return any(
        bool(getattr(torch.cpu, name, bool)()) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )


class _Product(torch.autograd.Function):
    """A product in bf16 by oneDNN, in fp32 by the native kernels; gradients of weights by PyTorch, which is faster."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, kernels: Native | None
    ) -> Tensor:
        rows, matrix = x.flatten(0, -2).to(dtype), weight.to(dtype)
        cast_bias = None if bias is None else bias.to(dtype)
        if kernels and dtype == torch.float32:
            out = kernels.product_once(rows, matrix, cast_bias)
        else:
            out = torch.ops.mkldnn._linear_pointwise.default(rows, matrix, cast_bias, "none", [], "")
        ctx.save_for_backward(rows, matrix)
        ctx.kernels, ctx.shape, ctx.types = kernels, x.shape, (x.dtype, weight.dtype)
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, matrix = ctx.saved_tensors
        of_x, of_weight = ctx.types
        gradient = gradient.flatten(0, -2).contiguous()
        d_x = d_weight = d_bias = None
        if ctx.needs_input_grad[0]:
            by_kernels = ctx.kernels and gradient.dtype == torch.float32
            d_x = ctx.kernels.product_once(gradient, matrix, None, transposed=True) if by_kernels else gradient @ matrix
            d_x = d_x.view(ctx.shape).to(of_x)
        if ctx.needs_input_grad[1]:
            d_weight = (gradient.T @ rows).to(of_weight)
        if ctx.needs_input_grad[2]:
            d_bias = (ctx.kernels.column_sums(gradient) if ctx.kernels else gradient.sum(0)).to(of_weight)
        return d_x, d_weight, d_bias, None, None
