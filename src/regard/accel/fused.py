"""Layers and loss in fused kernels, on a GPU: through ``torch.compile``, once for batches of all lengths.

Between the products of a layer stand a dozen passes over memory (norms, dropout, residuals, activation, casts), and
around those of the loss as many over the logits. Compiled together they are two or three passes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from regard.errors import RegardError
from regard.models.recorder import watched
from regard.nn.layers import TransformerLayer
from regard.nn.loss import softmax_gradient


class Fused:
    """A model's layers, compiled when they are first called; the model itself does not know of it."""

    def __init__(self, model: Any, device: torch.device, backend: str | Callable[..., Any] = "inductor") -> None:
        if device.type != "cuda":
            raise RegardError(
                f"training.compile = true is for CUDA GPUs, and this is {device.type}: leave it out (on a CPU, "
                "regard's native kernels do the same)"
            )
        self.model = model
        layers = [module for module in model.modules() if isinstance(module, TransformerLayer)]
        self.calls = [(layer, torch.compile(layer._call_impl, dynamic=True, backend=backend)) for layer in layers]
        self.softmax_gradient = torch.compile(in_one_pass, dynamic=True, backend=backend)

    @contextlib.contextmanager
    def switched_on(self) -> Iterator[None]:
        """Within the block, layers and softmax gradient run compiled; while the model is recorded, layers do not."""
        calls: list[Any] = [] if watched(self.model) else self.calls
        ways = softmax_gradient.ways
        for layer, call in calls:
            layer._compiled_call_impl = call  # ``nn.Module.compile`` sets the same attribute, and leaves it set
        softmax_gradient.ways = (self.softmax_gradient, *ways)
        try:
            yield
        finally:
            softmax_gradient.ways = ways
            for layer, _ in calls:
                layer._compiled_call_impl = None


def in_one_pass(logits: Tensor, labels: Tensor, confidence: float) -> tuple[Tensor, Tensor, Tensor]:
    """softmax - ``confidence`` · one-hot of logits [R, V], in their type; Σ -log p(label), Σ logit of the label, fp32.

    The operation of nn/loss.py in a form that compiles to one pass; uncompiled, the plain function is faster.
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    top = wide.amax(1, keepdim=True)
    exponential = (wide - top).exp()
    total = exponential.sum(1, keepdim=True)
    label_logits = wide.gather(1, labels[:, None]).sum()
    one_hot: Tensor = torch.arange(wide.shape[1], device=wide.device) == labels[:, None]
    p = exponential / total
    nll = (top + total.log()).sum() - label_logits
    return torch.where(one_hot, p - confidence, p).to(logits.dtype), nll, label_logits
