"""Dropout and its residual in one pass over memory, on a CPU (the operation ``add_dropped`` of nn/dropout.py)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from regard.accel import native
from regard.accel.native import Native
from regard.accel.structures import Dropping
from regard.nn.dropout import cpu_mask, random_bytes


def add_dropped(x: Tensor, residual: Tensor, p: float) -> Tensor | None:
    """residual + dropped x, in training on a CPU."""
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return None
    kernels = native.for_training(x)
    added: Tensor
    if kernels and residual.dtype == torch.float32:
        added = _DropAndAdd.apply(x, residual, p, kernels)  # type: ignore[no-untyped-call]
    else:
        added = _MaskedAdd.apply(x, residual, cpu_mask(x, p))  # type: ignore[no-untyped-call]
    return added


class _DropAndAdd(torch.autograd.Function):
    """residual + dropped x, in fp32: one pass forward, one backward, and only the bytes are kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, residual: Tensor, p: float, kernels: Native) -> Tensor:
        bytes_, least = random_bytes(x.numel(), p)
        ctx.save_for_backward(bytes_)
        ctx.dropping, ctx.dtype, ctx.kernels = Dropping(bytes_.data_ptr(), least, 1 / (1 - p)), x.dtype, kernels
        return kernels.drop_and_add(ctx.dropping, x, residual)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        return ctx.kernels.drop_backward(ctx.dropping, gradient, ctx.dtype), gradient, None, None


class _MaskedAdd(torch.autograd.Function):
    """residual + x · mask: one pass forward, one backward, and only the mask is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, residual: Tensor, mask: Tensor) -> Tensor:
        ctx.save_for_backward(mask)
        return torch.addcmul(residual, x, mask)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        (mask,) = ctx.saved_tensors
        return gradient * mask, gradient, None
