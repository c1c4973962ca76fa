"""The gradient of a softmax in training, and sums of parts in bf16, on a CPU (operations of nn/loss.py)."""

from __future__ import annotations

import torch
from torch import Tensor

from regard.accel import native


def softmax_gradient(logits: Tensor, labels: Tensor, confidence: float) -> tuple[Tensor, float, float] | None:
    """The operation of nn/loss.py in one pass, in place: logits in fp32 or bf16."""
    kernels = native.for_training(logits)
    if kernels is None or torch.compiler.is_compiling():
        return None
    nll, label_logits = kernels.softmax_gradient(logits, labels, confidence)
    return logits, nll, label_logits


def add_to(sums: Tensor, parts: Tensor) -> Tensor | None:
    """sums in fp32 += parts in bf16."""
    kernels = native.for_training(parts)
    if kernels is None or parts.dtype != torch.bfloat16 or sums.dtype != torch.float32:
        return None
    kernels.add(sums, parts)
    return sums
