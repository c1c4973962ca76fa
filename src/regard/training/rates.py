"""The rate at which this machine multiplies matrices, and the operations that a training needs."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from regard.accel import int8
from regard.models.contract import Model
from regard.nn.sequences import Tokens

SIZES = (1024, 2048, 4096)  # of square products; the fastest size differs between machines
TRIES, SECONDS = 3, 0.3  # at least so many tries of a product, for at least so long


def matrix_rate(device: torch.device, dtype: torch.dtype = torch.float32, *, sizes: Sequence[int] = SIZES) -> float:
    """Operations a second of warm square products: the best of all sizes, backends and tries."""
    rates = [0.0]
    for size in sizes:
        left, right = torch.randn(2, size, size, device=device).to(dtype)
        rates += [2.0 * size**3 / seconds for seconds in _seconds_by_backend(left, right)]
    return max(rates)


@torch.no_grad()
def shape_rate(model: Model, rows: int, dtype: torch.dtype) -> float:
    """Operations a second of products of ``rows`` rows with each matrix of the model, an output table included."""
    matrices = [module.weight for module in model.modules() if isinstance(module, torch.nn.Linear)]
    if model.has_scores:
        matrices.append(model.output_table()[0])
    shapes = Counter(matrix.shape for matrix in matrices)
    device = next(model.parameters()).device
    operations, total = 0.0, 0.0
    for (outputs, inputs), count in shapes.items():
        x, weight = torch.randn(rows, inputs, device=device).to(dtype), torch.randn(outputs, inputs, device=device)
        operations += 2.0 * rows * outputs * inputs * count
        total += min(_seconds_by_backend(x, weight.to(dtype).T)) * count
    return operations / total


def rate_for(model: Model, rows: int, dtype: torch.dtype, *, sizes: Sequence[int] = SIZES) -> float:
    """The larger of the matrix rate and the rate at the model's own shapes."""
    device = next(model.parameters()).device
    return max(matrix_rate(device, dtype, sizes=sizes), shape_rate(model, rows, dtype))


def _seconds_by_backend(left: Tensor, right: Tensor) -> list[float]:
    """The least time of a product on each backend that supports the dtype."""
    seconds = []
    for product in _backends(left.device):
        with contextlib.suppress(RuntimeError):
            seconds.append(_least_seconds(product, left, right))
    return seconds


def _backends(device: torch.device) -> list[Callable[[Tensor, Tensor], Any]]:
    """PyTorch's ``mm``, and on a CPU oneDNN's: on some machines one is twice as fast as the other."""
    products: list[Callable[[Tensor, Tensor], Any]] = [torch.mm]
    onednn = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if device.type == "cpu" and torch.backends.mkldnn.enabled and onednn is not None:
        products.append(lambda left, right: onednn(left, right.T, None, "none", [], ""))
    return products


def _least_seconds(product: Callable[[Tensor, Tensor], Any], left: Tensor, right: Tensor) -> float:
    """The least of several tries: early ones load kernels and power up units such as AMX, others may be disturbed."""
    tries: list[float] = []
    while len(tries) < TRIES or sum(tries) < SECONDS:
        if left.is_cuda:
            torch.cuda.synchronize()  # the device must be idle when the clock is read
        start = time.perf_counter()
        product(left, right)
        if left.is_cuda:
            torch.cuda.synchronize()
        tries.append(time.perf_counter() - start)
    return min(tries)


@dataclass(frozen=True)
class Work:
    """Operations of one forward and backward pass, a polynomial of a pair's lengths; padding is not counted.

    With ``s`` subwords in the source and ``t`` in the target, marks included, a pair costs
    6 · Σ(weights of a product × tokens that pass it) + 12 · D · (self s² + self t² + cross s·t) for each layer.
    """

    linear_source: float
    linear_target: float
    square_source: float
    square_target: float
    cross: float

    def of(self, source: NDArray[Any], target: NDArray[Any]) -> float:
        """Operations of n pairs with the lengths ``source`` [n] and ``target`` [n]."""
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


# PyTorch's table of operations lacks the CPU's attention kernel and oneDNN's integer products.
_ON_CPU: dict[Any, Callable[..., int]] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_operations
}
if int8.available():
    _ON_CPU[torch.ops.onednn.qlinear_pointwise] = _int8_operations


def work_of(model: Model) -> Work:
    """Count a model's operations on six tiny pairs, so that no architecture has to declare its cost.

    Products up to the hidden states are counted as they run; the backward pass has twice as many.
    """
    sizes = [(4, 4), (8, 4), (4, 8), (8, 8), (12, 4), (4, 12)]
    counted = np.array([_forward_operations(model, *size) for size in sizes], dtype=np.float64)
    terms = np.array([[s, t, s * s, t * t, s * t] for s, t in sizes], dtype=np.float64)
    solved, *_ = np.linalg.lstsq(terms, counted, rcond=None)
    coefficients = [3.0 * float(value) if abs(value) > 1e-6 * abs(solved).max() else 0.0 for value in solved]
    # The output product is not part of the forward pass, and runs on every real target token.
    if model.has_scores:
        coefficients[1] += 6.0 * model.output_table()[0].numel()
    return Work(*coefficients)


@torch.no_grad()
def _forward_operations(model: Model, source_length: int, target_length: int) -> int:
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
