"""Cross entropy straight from hidden states: logits are made, used and forgotten chunk by chunk."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    bias: Tensor | None = None,
    smoothing: float = 0.0,
    chunk: int = 0,
) -> tuple[Tensor, Tensor]:
    """Label-smoothed cross entropy of ``hidden @ weightᵀ + bias``: sums over the real tokens, (loss, nll).

    hidden [M, D], weight [V, D], labels [M] int64, bias [V]; rows whose label is negative do not count. The smoothed
    target is (1 - ε) · one-hot + ε / V, as in ``torch.nn.functional.cross_entropy``. ``chunk`` rows of logits exist at
    a time (0: chosen by V and device). Only the loss has a gradient; ``nll`` is -Σ log p(label), for perplexity.
    """
    chunk = chunk or default_chunk(len(weight), hidden.device)
    sums: tuple[Tensor, Tensor] = _LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden, weight, bias, labels, smoothing, chunk
    )
    return sums


def default_chunk(vocabulary: int, device: torch.device) -> int:
    """On CPU about 8 MB of fp32 logits, which a last-level cache holds; elsewhere enough to fill the device."""
    numbers = 1 << (21 if device.type == "cpu" else 26)
    return max(64, numbers // vocabulary // 64 * 64)


class _LinearCrossEntropy(torch.autograd.Function):
    """Loss and gradients in one go: while a chunk's probabilities are at hand, its gradients cost two products."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, smoothing: float, chunk: int
    ) -> tuple[Tensor, Tensor]:
        device = hidden.device.type
        narrow = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        wide = torch.promote_types(hidden.dtype, torch.float32)  # softmax and sums, in every precision
        for_hidden, for_weight, for_bias = ctx.needs_input_grad[:3]
        vocabulary = len(weight)

        with torch.no_grad(), torch.autocast(device, enabled=False):
            everything = labels >= 0
            rows = None if device == "cpu" and bool(everything.all()) else everything.nonzero().squeeze(1)
            inputs = (hidden if rows is None else hidden.index_select(0, rows)).to(narrow)
            labels = labels if rows is None else labels.index_select(0, rows)
            table = weight.to(narrow)
            # ε / V · Σ_v logit_v needs the logits of one vector only: that of the table's column sums.
            mean_row = weight.to(wide).mean(0) if smoothing else None
            mean_bias = bias.to(wide).mean() if smoothing and bias is not None else None

            loss = torch.zeros((), dtype=wide, device=hidden.device)
            nll = torch.zeros_like(loss)
            d_inputs = torch.empty_like(inputs, dtype=wide) if for_hidden else None
            d_weight = torch.zeros_like(weight, dtype=wide) if for_weight else None
            d_bias = torch.zeros_like(bias, dtype=wide) if bias is not None and for_bias else None
            buffer = torch.empty(min(chunk, max(1, len(inputs))), vocabulary, dtype=narrow, device=hidden.device)

            for start in range(0, len(inputs), chunk):
                x = inputs[start : start + chunk]  # [R, D]
                label = labels[start : start + chunk, None]
                logits = torch.mm(x, table.T, out=buffer[: len(x)])  # [R, V]
                if bias is not None:
                    logits += bias
                logits = logits.to(wide)
                right = logits.gather(1, label)
                top = logits.amax(1, keepdim=True)
                p = torch.softmax(logits, 1, out=logits)  # in place: each row is read before it is written
                # log Σ exp = top - log p(top), and p(top) ≥ 1/V never underflows.
                lse = top - p.amax(1, keepdim=True).log_()
                chunk_nll = (lse - right).sum()
                nll += chunk_nll
                loss += chunk_nll
                if mean_row is not None:
                    mean_logit = x.to(wide) @ mean_row
                    mean_logit = mean_logit if mean_bias is None else mean_logit + mean_bias
                    loss += smoothing * (right.squeeze(1) - mean_logit).sum()
                if not (for_hidden or for_weight or for_bias):
                    continue
                # d loss / d logits = p - (1 - ε) one-hot - ε / V; the last term is the same for all, and comes below
                p.scatter_add_(1, label, p.new_full((), smoothing - 1).expand_as(label))
                if d_bias is not None:
                    d_bias += p.sum(0)
                p = p.to(narrow)
                if d_inputs is not None:
                    _product(p, table, out=d_inputs[start : start + chunk], add=False)
                if d_weight is not None:
                    _product(p.T, x, out=d_weight, add=True)

            if mean_row is not None:
                if d_inputs is not None:
                    d_inputs -= smoothing * mean_row
                if d_weight is not None:
                    d_weight -= smoothing / vocabulary * inputs.to(wide).sum(0)
                if d_bias is not None:
                    d_bias -= smoothing / vocabulary * len(inputs)

            d_hidden = d_inputs
            if d_inputs is not None and rows is not None:
                d_hidden = torch.zeros_like(hidden, dtype=wide).index_copy_(0, rows, d_inputs)
        ctx.save_for_backward(d_hidden, d_weight, d_bias)
        ctx.types = hidden.dtype, weight.dtype, None if bias is None else bias.dtype
        ctx.mark_non_differentiable(nll)
        return loss, nll

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        parts = [
            None if part is None else (part * gradient).to(dtype)
            for part, dtype in zip(ctx.saved_tensors, ctx.types, strict=True)
        ]
        return (*parts, None, None, None)


def _product(a: Tensor, b: Tensor, *, out: Tensor, add: bool) -> None:
    """out (+)= a @ b, where ``out`` may be wider than the factors: sums over chunks are kept in fp32."""
    if a.dtype == out.dtype:
        torch.addmm(out, a, b, beta=1 if add else 0, out=out)
    elif add:
        out += a @ b
    else:
        out.copy_(a @ b)
