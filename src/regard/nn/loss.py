"""Cross entropy straight from hidden states: logits are made chunk by chunk, and never all at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from regard.nn.linear import type_of_products
from regard.nn.ops import Operation


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    bias: Tensor | None = None,
    smoothing: float = 0.0,
    chunk: int = 0,
    count: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Label-smoothed cross entropy of ``hidden @ weightᵀ + bias``: sums over the real tokens, (loss, nll).

    hidden [M, D], weight [V, D], labels [M] int64, bias [V]; rows whose label is negative do not count. The smoothed
    target is (1 - ε) · one-hot + ε / V, as in ``torch.nn.functional.cross_entropy``. ``chunk`` rows of logits exist at
    a time (0: chosen by V and device). Only the loss has a gradient; ``nll`` is -Σ log p(label), for perplexity.
    ``count``: how many rows are real, if the caller knows; None: the host waits for an accelerator.
    """
    chunk = chunk or default_chunk(len(weight), hidden.device, type_of_products(hidden))
    sums: tuple[Tensor, Tensor] = _LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden, weight, bias, labels, smoothing, chunk, count
    )
    return sums


def real_rows(labels: Tensor, count: int | None = None) -> Tensor:
    """The indices of labels [M] that are no padding, [count]; without ``count`` the host waits for an accelerator."""
    real = labels >= 0
    return (real.nonzero() if count is None else real.nonzero_static(size=count)).squeeze(1)


def default_chunk(vocabulary: int, device: torch.device, dtype: torch.dtype) -> int:
    """On a CPU about 16 MB of logits, which a last-level cache holds; elsewhere enough to fill the device.

    Not fewer than 512 rows: each chunk adds a product as large as the table to the table's gradient.
    """
    numbers = (1 << 24) // dtype.itemsize if device.type == "cpu" else 1 << 26
    return max(512, numbers // vocabulary // 64 * 64)


class _LinearCrossEntropy(torch.autograd.Function):
    """Loss and gradients in one pass: once a chunk's probabilities are there, its gradients cost two products."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, smoothing: float, chunk: int,
        count: int | None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        device = hidden.device.type
        dtype = type_of_products(hidden)
        with torch.no_grad(), torch.autocast(device, enabled=False):
            if device != "cpu" or not bool((labels >= 0).all()):
                rows = real_rows(labels, count)
                inputs, labels = hidden.index_select(0, rows).to(dtype), labels.index_select(0, rows)
            else:
                rows, inputs = None, hidden.to(dtype)
            gradients = _Gradients(inputs, weight, bias, ctx.needs_input_grad[:3])
            loss, nll = _sums(inputs, weight, bias, labels, smoothing, chunk, gradients)
            if gradients.hidden is not None and rows is not None:
                everywhere = torch.zeros_like(hidden, dtype=gradients.hidden.dtype)
                gradients.hidden = everywhere.index_copy_(0, rows, gradients.hidden)
        ctx.save_for_backward(gradients.hidden, gradients.weight, gradients.bias)
        ctx.types = hidden.dtype, weight.dtype, None if bias is None else bias.dtype
        ctx.mark_non_differentiable(nll)
        return loss, nll

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        return (*made_in_forward(ctx, gradient), *(None,) * 4)


def made_in_forward(ctx: Any, gradient: Tensor) -> list[Tensor | None]:
    """The gradients that a loss computed in its forward pass, times the gradient of the loss, in their inputs' types.

    They are multiplied in place, so that only one backward pass is possible.
    """
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
) -> tuple[Tensor, Tensor]:
    """Loss and nll of real tokens, inputs [M, D]; the gradients are added to ``gradients``."""
    table, wide = weight.to(inputs.dtype), gradients.wide
    # ε / V · Σ_v logit_v needs the logits of one vector only: that of the table's column means.
    mean_row, mean_bias = weight.to(wide).mean(0), 0.0 if bias is None else bias.to(wide).mean()
    loss, nll = (torch.zeros((), dtype=wide, device=inputs.device) for _ in range(2))
    of_softmax = softmax_gradient if gradients.wanted else softmax_gradient.plain
    buffer = inputs.new_empty(min(chunk, max(1, len(inputs))), len(weight))

    for start in range(0, len(inputs), chunk):
        x, label = inputs[start : start + chunk], labels[start : start + chunk]  # [R, D], [R]
        logits = torch.mm(x, table.T, out=buffer[: len(x)])  # [R, V]
        if bias is not None:
            logits += bias
        # d loss / d logits = p - (1 - ε) one-hot - ε / V; ``smooth`` adds the last term, the same for all
        of_logits, chunk_nll, label_logits = of_softmax(logits, label, 1 - smoothing)
        nll += chunk_nll
        loss += chunk_nll
        if smoothing:
            loss += smoothing * (label_logits - (x.to(wide) @ mean_row + mean_bias).sum())
        if gradients.wanted:
            gradients.add(of_logits, x, table, start)
    if smoothing:
        gradients.smooth(smoothing, inputs, mean_row)
    return loss, nll


def _softmax_gradient(
    logits: Tensor, labels: Tensor, confidence: float
) -> tuple[Tensor, Tensor | float, Tensor | float]:
    """Softmax - ``confidence`` · one-hot of logits [R, V], Σ -log p(label), and Σ logit of the label; at least fp32.

    The logits may be overwritten.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    at = torch.arange(len(logits), device=logits.device)
    label_logits, top = logits[at, labels].sum(), logits.amax(1)
    p = torch.softmax(logits, 1, out=logits)  # in place: each row is read before it is written
    # log Σ exp = top - log p(top), and p(top) ≥ 1/V never underflows.
    nll = (top - p.amax(1).log_()).sum() - label_logits
    p[at, labels] -= confidence
    return p, nll, label_logits


softmax_gradient = Operation(_softmax_gradient)


def _add_to(sums: Tensor, parts: Tensor) -> Tensor:
    """sums += parts, which may be of a narrower type."""
    sums += parts
    return sums


add_to = Operation(_add_to)


class _Gradients:
    """The gradients of hidden [M, D], weight [V, D] and bias [V] as far as autograd asks for them, in at least fp32."""

    def __init__(self, inputs: Tensor, weight: Tensor, bias: Tensor | None, wanted: tuple[bool, bool, bool]) -> None:
        self.wide = torch.promote_types(weight.dtype, torch.float32)
        self.wanted = any(wanted)
        self.hidden = torch.empty_like(inputs, dtype=self.wide) if wanted[0] else None
        self.weight = torch.zeros_like(weight, dtype=self.wide) if wanted[1] else None
        self.bias = torch.zeros_like(bias, dtype=self.wide) if bias is not None and wanted[2] else None

    def add(self, p: Tensor, x: Tensor, table: Tensor, start: int) -> None:
        """One chunk: p [R, V] is the gradient of its logits, x [R, D] were its inputs, from row ``start`` on."""
        if self.bias is not None:
            self.bias += p.sum(0, dtype=self.wide)
        p = p.to(x.dtype)
        if self.hidden is not None:
            _product(p, table, out=self.hidden[start : start + len(x)], add=False)
        if self.weight is not None:
            _product(p.T, x, out=self.weight, add=True)

    def smooth(self, smoothing: float, inputs: Tensor, mean_row: Tensor) -> None:
        """Adds the part of the term - ε / V in the gradient of every logit: a product of rank one."""
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
        add_to(out, a @ b)
    else:
        out.copy_(a @ b)
