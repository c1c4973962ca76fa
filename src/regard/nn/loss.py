"""Cross entropy straight from hidden states: logits are made, used and forgotten chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from regard.accel import native
from regard.accel.linear import type_of_products
from regard.accel.native import Native

#: As ``softened``.
Soften = Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor, Tensor]]


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    bias: Tensor | None = None,
    smoothing: float = 0.0,
    chunk: int = 0,
    count: int | None = None,
    soften: Soften | None = None,
) -> tuple[Tensor, Tensor]:
    """Label-smoothed cross entropy of ``hidden @ weightᵀ + bias``: sums over the real tokens, (loss, nll).

    hidden [M, D], weight [V, D], labels [M] int64, bias [V]; rows whose label is negative do not count. The smoothed
    target is (1 - ε) · one-hot + ε / V, as in ``torch.nn.functional.cross_entropy``. ``chunk`` rows of logits exist at
    a time (0: chosen by V and device). Only the loss has a gradient; ``nll`` is -Σ log p(label), for perplexity.
    ``count``: how many rows are real, if the caller knows; else an accelerator is waited for. ``soften``: what is used
    in the place of the loss's own, such as ``softened`` compiled.
    """
    chunk = chunk or default_chunk(len(weight), hidden.device, type_of_products(hidden))
    sums: tuple[Tensor, Tensor] = _LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden, weight, bias, labels, smoothing, chunk, count, soften
    )
    return sums


def real_rows(labels: Tensor, count: int | None = None) -> Tensor:
    """Which labels [M] are no padding, [count]; without the ``count`` an accelerator is waited for."""
    real = labels >= 0
    return (real.nonzero() if count is None else real.nonzero_static(size=count)).squeeze(1)


def default_chunk(vocabulary: int, device: torch.device, dtype: torch.dtype) -> int:
    """On a CPU about 16 MB of logits, which a last-level cache holds; elsewhere enough to fill the device.

    Not fewer than 512 rows: each chunk adds a product as large as the table to the table's gradient.
    """
    numbers = (1 << 24) // dtype.itemsize if device.type == "cpu" else 1 << 26
    return max(512, numbers // vocabulary // 64 * 64)


class _LinearCrossEntropy(torch.autograd.Function):
    """Loss and gradients in one go: while a chunk's probabilities are at hand, its gradients cost two products."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, smoothing: float, chunk: int,
        count: int | None, soften: Soften | None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        device = hidden.device.type
        narrow = type_of_products(hidden)
        with torch.no_grad(), torch.autocast(device, enabled=False):
            if device != "cpu" or not bool((labels >= 0).all()):
                rows = real_rows(labels, count)
                inputs, labels = hidden.index_select(0, rows).to(narrow), labels.index_select(0, rows)
            else:
                rows, inputs = None, hidden.to(narrow)
            gradients = _Gradients(inputs, weight, bias, ctx.needs_input_grad[:3])
            loss, nll = _sums(inputs, weight, bias, labels, smoothing, chunk, gradients, soften)
            if gradients.hidden is not None and rows is not None:
                everywhere = torch.zeros_like(hidden, dtype=gradients.hidden.dtype)
                gradients.hidden = everywhere.index_copy_(0, rows, gradients.hidden)
        ctx.save_for_backward(gradients.hidden, gradients.weight, gradients.bias)
        ctx.types = hidden.dtype, weight.dtype, None if bias is None else bias.dtype
        ctx.mark_non_differentiable(nll)
        return loss, nll

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        return (*made_in_forward(ctx, gradient), *(None,) * 5)


def made_in_forward(ctx: Any, gradient: Tensor) -> list[Tensor | None]:
    """The gradients that a loss made beside its value, times that of the loss, each in its input's type; once."""
    return [
        None if part is None else part.mul_(gradient).to(dtype)
        for part, dtype in zip(ctx.saved_tensors, ctx.types, strict=True)
    ]


def _sums(
    inputs: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    smoothing: float,
    chunk: int,
    gradients: _Gradients,
    soften: Soften | None,
) -> tuple[Tensor, Tensor]:
    """Loss and nll of real tokens, inputs [M, D]; ``gradients`` are added up on the way."""
    table, wide = weight.to(inputs.dtype), gradients.wide
    # ε / V · Σ_v logit_v needs the logits of one vector only: that of the table's column means.
    mean_row, mean_bias = weight.to(wide).mean(0), 0.0 if bias is None else bias.to(wide).mean()
    loss, nll = (torch.zeros((), dtype=wide, device=inputs.device) for _ in range(2))
    loops = native.for_training(inputs) if gradients.wanted else None
    buffer = inputs.new_empty(min(chunk, max(1, len(inputs))), len(weight))

    for start in range(0, len(inputs), chunk):
        x, label = inputs[start : start + chunk], labels[start : start + chunk]  # [R, D], [R]
        logits = torch.mm(x, table.T, out=buffer[: len(x)])  # [R, V]
        if bias is not None:
            logits += bias
        # d loss / d logits = p - (1 - ε) one-hot - ε / V; the last term is the same for all, and comes below
        p = logits
        surprise: Tensor | float
        right: Tensor | float
        if soften is not None:
            p, surprise, right = soften(logits, label, 1 - smoothing)
        elif loops:
            surprise, right = loops.softmax_gradient(p, label, 1 - smoothing)
        else:
            p = logits.to(wide)
            surprise, right = _soften(p, label, 1 - smoothing)
        nll += surprise
        loss += surprise
        if smoothing:
            loss += smoothing * (right - (x.to(wide) @ mean_row + mean_bias).sum())
        if gradients.wanted:
            gradients.add(p, x, table, start, loops)
    if smoothing:
        gradients.smooth(smoothing, inputs, mean_row)
    return loss, nll


def softened(logits: Tensor, labels: Tensor, rest: float) -> tuple[Tensor, Tensor, Tensor]:
    """softmax - ``rest`` · one-hot of logits [R, V], in their type, and Σ -log p(label) and Σ logit of the label, fp32.

    Each number once, as a compiler wants it: by itself, on a CPU, ``_soften`` is faster.
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    top = wide.amax(1, keepdim=True)
    exponential = (wide - top).exp()
    total = exponential.sum(1, keepdim=True)
    right = wide.gather(1, labels[:, None]).sum()
    one_hot: Tensor = torch.arange(wide.shape[1], device=wide.device) == labels[:, None]
    p = exponential / total
    return torch.where(one_hot, p - rest, p).to(logits.dtype), (top + total.log()).sum() - right, right


def _soften(logits: Tensor, labels: Tensor, rest: float) -> tuple[Tensor, Tensor]:
    """``Native.softmax_gradient`` by operators: in place softmax - ``rest`` · one-hot, and the sums that go with it."""
    at = torch.arange(len(logits), device=logits.device)
    right, top = logits[at, labels].sum(), logits.amax(1)
    p = torch.softmax(logits, 1, out=logits)  # in place: each row is read before it is written
    # log Σ exp = top - log p(top), and p(top) ≥ 1/V never underflows.
    surprise = (top - p.amax(1).log_()).sum() - right
    p[at, labels] -= rest
    return surprise, right


class _Gradients:
    """The gradients of hidden [M, D], weight [V, D] and bias [V] as far as they are wanted, in at least fp32."""

    def __init__(self, inputs: Tensor, weight: Tensor, bias: Tensor | None, wanted: tuple[bool, bool, bool]) -> None:
        self.wide = torch.promote_types(weight.dtype, torch.float32)
        self.wanted = any(wanted)
        self.hidden = torch.empty_like(inputs, dtype=self.wide) if wanted[0] else None
        self.weight = torch.zeros_like(weight, dtype=self.wide) if wanted[1] else None
        self.bias = torch.zeros_like(bias, dtype=self.wide) if bias is not None and wanted[2] else None

    def add(self, p: Tensor, x: Tensor, table: Tensor, start: int, loops: Native | None) -> None:
        """One chunk: p [R, V] is the gradient of its logits, x [R, D] were its inputs, from row ``start`` on."""
        if self.bias is not None:
            self.bias += p.sum(0, dtype=self.wide)
        p = p.to(x.dtype)
        if self.hidden is not None:
            _product(p, table, out=self.hidden[start : start + len(x)], add=False)
        if self.weight is not None and loops and p.dtype != self.wide:
            loops.add(self.weight, p.T @ x)
        elif self.weight is not None:
            _product(p.T, x, out=self.weight, add=True)

    def smooth(self, smoothing: float, inputs: Tensor, mean_row: Tensor) -> None:
        """What - ε / V in every logit's gradient comes to: a product of rank one."""
        if self.hidden is not None:
            self.hidden -= smoothing * mean_row
        if self.weight is not None:
            self.weight -= smoothing / len(self.weight) * inputs.to(self.wide).sum(0)
        if self.bias is not None:
            self.bias -= smoothing / len(self.bias) * len(inputs)


def _product(a: Tensor, b: Tensor, *, out: Tensor, add: bool) -> None:
    """out (+)= a @ b, where ``out`` may be wider than the factors: sums over chunks are kept in fp32."""
    if a.dtype == out.dtype:
        torch.addmm(out, a, b, beta=1 if add else 0, out=out)
    elif add:
        out += a @ b
    else:
        out.copy_(a @ b)
