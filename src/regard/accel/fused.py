"""Layers and loss in fused kernels, on a GPU: through ``torch.compile``, once for batches of all lengths.

Between the products of a layer stand a dozen passes over memory (norms, dropout, residuals, activation, casts), and
around those of the loss as many over the logits: compiled together they are two or three.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

from regard.errors import RegardError
from regard.models.recorder import watched
from regard.nn.layers import TransformerLayer
from regard.nn.loss import Soften, softened


class Fused:
    """A model's layers, compiled when they are first called; the model itself does not know of it."""

    def __init__(self, model: Any, device: torch.device, backend: str | Callable[..., Any] = "inductor") -> None:
        if device.type != "cuda":
            raise RegardError(
                f"training.compile = true is for CUDA GPUs, and this is {device.type}: leave it out (on a CPU, "
                "regard's own loops do what it would)"
            )
        self.model = model
        layers = [module for module in model.modules() if isinstance(module, TransformerLayer)]
        self.calls = [(layer, torch.compile(layer._call_impl, dynamic=True, backend=backend)) for layer in layers]
        self.soften: Soften = torch.compile(softened, dynamic=True, backend=backend)

    @contextlib.contextmanager
    def layers(self) -> Iterator[None]:
        """Inside, layers are called compiled; by themselves where somebody records the model."""
        calls: list[Any] = [] if watched(self.model) else self.calls
        for layer, call in calls:
            layer._compiled_call_impl = call  # as ``nn.Module.compile`` does it, for good
        try:
            yield
        finally:
            for layer, _ in calls:
                layer._compiled_call_impl = None
