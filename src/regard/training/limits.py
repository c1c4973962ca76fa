"""How fast this machine multiplies matrices, how much of that a training needs, and the share it gets."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from regard.nn import int8
from regard.nn.layout import Tokens


def matrix_rate(device: torch.device, dtype: torch.dtype = torch.float32, *, size: int = 2048, runs: int = 3) -> float:
    """Operations a second of a ``size``³ product: the best median over the backends at hand."""
    left, right = torch.randn(2, size, size, device=device).to(dtype)
    seconds = []
    for product in _backends(device):
        # Not every CPU has every type in every library.
        with contextlib.suppress(RuntimeError):
            seconds.append(_median_seconds(product, left, right, runs))
    return 2.0 * size**3 / min(seconds)


def _backends(device: torch.device) -> list[Callable[[Tensor, Tensor], Any]]:
    """PyTorch's own ``mm``, and on a CPU oneDNN's: on some machines the one is twice as fast as the other."""
    products: list[Callable[[Tensor, Tensor], Any]] = [torch.mm]
    onednn = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if device.type == "cpu" and torch.backends.mkldnn.enabled and onednn is not None:
        products.append(lambda left, right: onednn(left, right, None, "none", [], ""))
    return products


def _median_seconds(product: Callable[[Tensor, Tensor], Any], left: Tensor, right: Tensor, runs: int) -> float:
    seconds = []
    for _ in range(runs + 1):
        if left.is_cuda:
            torch.cuda.synchronize()  # a clock is read: the device has to be idle
        start = time.perf_counter()
        product(left, right)
        if left.is_cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])  # the first run loads the kernels


@dataclass(frozen=True)
class Work:
    """Operations of one forward and backward pass, a polynomial of a pair's real lengths: padding is not work.

    With ``s`` subwords in the source and ``t`` in the target, marks included, a pair costs
    6 · Σ(weights of a product × tokens that pass it) + 12 · D · (self s² + self t² + cross s·t) for each layer.
    """

    linear_source: float
    linear_target: float
    square_source: float
    square_target: float
    cross: float

    def of(self, source: NDArray[Any], target: NDArray[Any]) -> float:
        """Of pairs with these lengths [n], [n]."""
        s, t = source.astype(np.float64), target.astype(np.float64)
        return float(
            self.linear_source * s.sum()
            + self.linear_target * t.sum()
            + self.square_source * (s * s).sum()
            + self.square_target * (t * t).sum()
            + self.cross * (s * t).sum()
        )


def _attention_operations(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


def _int8_operations(x: Any, _scale: Any, _zero: Any, _packed: Any, steps: Any, *_: Any, **__: Any) -> int:
    return 2 * int(x[0]) * int(x[1]) * int(steps[0])


# torch's table of operations leaves the CPU's attention kernel and oneDNN's integer products out.
_ON_CPU: dict[Any, Callable[..., int]] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_operations
}
if int8.available():
    _ON_CPU[torch.ops.onednn.qlinear_pointwise] = _int8_operations


def work_of(model: Any) -> Work:
    """Count a model's products on five tiny sentences, so that no architecture has to know its own cost.

    The products up to the hidden states are counted as they run; the backward pass multiplies twice as much.
    """
    sizes = [(4, 4), (8, 4), (4, 8), (8, 8), (12, 4), (4, 12)]
    counted = np.array([_forward_operations(model, *size) for size in sizes], dtype=np.float64)
    terms = np.array([[s, t, s * s, t * t, s * t] for s, t in sizes], dtype=np.float64)
    solved, *_ = np.linalg.lstsq(terms, counted, rcond=None)
    coefficients = [3.0 * float(value) if abs(value) > 1e-6 * abs(solved).max() else 0.0 for value in solved]
    # The output product runs on every real target token, in a function of its own.
    coefficients[1] += 6.0 * model.output_table()[0].numel()
    return Work(*coefficients)


@torch.no_grad()
def _forward_operations(model: Any, source_length: int, target_length: int) -> int:
    """Operations of one forward pass up to the hidden states, for one pair without padding."""
    device = next(model.parameters()).device
    source, target = (
        Tokens(torch.ones(1, n, dtype=torch.long, device=device), torch.tensor([n], device=device))
        for n in (source_length, target_length)
    )
    training = model.training
    model.eval()
    try:
        with FlopCounterMode(display=False, custom_mapping=_ON_CPU) as counter:
            model(target, model.encode(source) if model.has_source else None)
    finally:
        model.train(training)
    return int(counter.get_total_flops())
