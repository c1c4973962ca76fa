"""Shares of the time of a piece of work by kind of operator, from the profiler."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch
from torch.profiler import ProfilerActivity, profile

from regard.accel import native

# Kind → parts of operators' names; the first match counts.
KINDS = {
    "products with weights": ("::addmm", "::mm", "linear_pointwise", "::product", "::project"),
    "attention": ("::bmm", "::baddbmm", "attention"),
    "softmax": ("softmax", "logsumexp"),
    "norms": ("layer_norm", "rms_norm"),
    "dropout": ("dropout", "bernoulli", "random_", "::drop"),
    "ranking": ("topk", "::sort", "::max", "::amax", "argmax"),
    "copies": ("copy_", "::cat", "::stack", "index", "gather", "scatter", "fill_", "zero_", "embedding", "pad"),
    "optimizer": ("_fused_adam", "_norm"),  # the gradient's norm
}
REST, OUTSIDE = "other operators", "between operators"
STACK = "native::stack"  # many layers in one call, which measures its own parts (accel/native.py)


def breakdown(work: Callable[[], object], device: torch.device) -> dict[str, float]:
    """Shares of the time of ``work``, summing to 1, largest first; "between operators" is Python and waiting.

    Each operator counts without the operators that it calls. On a GPU the shares are of its time. The profiler slows
    the work, small operators most.
    """
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    kernels = native.library() if native.at_hand() else None  # loaded by now, if the work uses them
    before = kernels.spent() if kernels else {}
    with profile(activities=activities) as profiler:
        start = time.perf_counter()
        work()
        if on_gpu:
            torch.cuda.synchronize()  # before the clock is read
        seconds = time.perf_counter() - start
    parts = {kind: after - before[kind] for kind, after in kernels.spent().items()} if kernels else {}
    for event in profiler.key_averages():
        spent = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        if spent and event.key != STACK:
            kind = kind_of(event.key)
            parts[kind] = parts.get(kind, 0.0) + spent / 1e6
    parts[OUTSIDE] = max(seconds - sum(parts.values()), 0.0)
    whole = sum(parts.values())
    return {kind: spent / whole for kind, spent in sorted(parts.items(), key=lambda item: -item[1]) if spent}


def kind_of(operator: str) -> str:
    """The kind of an operator.

    >>> kind_of("aten::addmm"), kind_of("aten::baddbmm"), kind_of("aten::relu")
    ('products with weights', 'attention', 'other operators')
    """
    return next((kind for kind, names in KINDS.items() if any(name in operator for name in names)), REST)


def in_lines(parts: Mapping[str, float]) -> list[str]:
    """The shares as lines of text."""
    return [f"{share:6.1%}  {kind}" for kind, share in parts.items()]
