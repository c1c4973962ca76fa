"""R-Drop (Liang et al. 2021): two passes with different dropout learn to agree; logits are made chunk by chunk."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from regard.nn.linear import type_of_products
from regard.nn.loss import default_chunk, made_in_forward, real_rows


def linear_rdrop(
    first: Tensor,
    second: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    bias: Tensor | None = None,
    smoothing: float = 0.0,
    alpha: float = 1.0,
    chunk: int = 0,
    count: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Sums over the real tokens, (loss, nll), of two passes over one batch.

    ``first`` and ``second`` [M, D] are the hidden states of the passes, weight [V, D], labels [M] (negative: not
    counted), bias [V]. For each token the loss is the mean of both cross entropies, smoothed as in ``loss.py``, plus
    α/4 · (KL(p₁‖p₂) + KL(p₂‖p₁)): half of equation (4) of the paper, so that α = 0 is the plain loss.
    ``count`` as in ``loss.py``.
    """
    chunk = chunk or max(32, default_chunk(len(weight), first.device, first.dtype) // 2)
    sums: tuple[Tensor, Tensor] = _LinearRDrop.apply(  # type: ignore[no-untyped-call]
        first, second, weight, bias, labels, smoothing, alpha, chunk, count
    )
    return sums


class _LinearRDrop(torch.autograd.Function):
    """Loss and gradients in one pass, like the plain loss."""

    @staticmethod
    def forward(
        ctx: Any,
        first: Tensor,
        second: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        smoothing: float,
        alpha: float,
        chunk: int,
        count: int | None,
    ) -> tuple[Tensor, Tensor]:
        device = first.device.type
        dtype = type_of_products(first)
        wide = torch.promote_types(first.dtype, torch.float32)
        with torch.no_grad(), torch.autocast(device, enabled=False):
            rows = real_rows(labels, count)
            labels = labels.index_select(0, rows)
            hidden = [side.index_select(0, rows).to(dtype) for side in (first, second)]
            table = weight.to(dtype)
            loss = torch.zeros((), dtype=wide, device=first.device)
            nll = torch.zeros_like(loss)
            d_hidden = [torch.empty_like(side, dtype=wide) for side in hidden]
            d_weight = torch.zeros_like(weight, dtype=wide)
            d_bias = None if bias is None else torch.zeros_like(bias, dtype=wide)

            for start in range(0, len(rows), chunk):
                part = slice(start, start + chunk)
                label = labels[part, None]
                logs = [_log_softmax(side[part], table, bias, wide) for side in hidden]  # twice [R, V]
                for log in logs:
                    log_likelihood = log.gather(1, label).sum()
                    nll -= log_likelihood / 2
                    loss -= ((1 - smoothing) * log_likelihood + smoothing * log.mean(1).sum()) / 2
                gradients, divergence = _divergence(logs, alpha)
                loss += alpha / 4 * divergence
                for side, d_side, gradient in zip(hidden, d_hidden, gradients, strict=True):
                    gradient.scatter_add_(1, label, gradient.new_full((), (smoothing - 1) / 2).expand_as(label))
                    if smoothing:
                        gradient -= smoothing / (2 * len(weight))
                    if d_bias is not None:
                        d_bias += gradient.sum(0)
                    gradient = gradient.to(dtype)
                    d_side[part] = gradient @ table
                    d_weight += gradient.T @ side[part]
            full = [torch.zeros_like(first, dtype=wide).index_copy_(0, rows, d_side) for d_side in d_hidden]
        ctx.save_for_backward(*full, d_weight, d_bias)
        ctx.types = first.dtype, second.dtype, weight.dtype, None if bias is None else bias.dtype
        ctx.mark_non_differentiable(nll)
        return loss, nll

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        return (*made_in_forward(ctx, gradient), *(None,) * 5)


def _log_softmax(x: Tensor, table: Tensor, bias: Tensor | None, wide: torch.dtype) -> Tensor:
    logits = (x @ table.T).to(wide)
    if bias is not None:
        logits += bias
    return torch.log_softmax(logits, 1, out=logits)


def _divergence(logs: list[Tensor], alpha: float) -> tuple[list[Tensor], Tensor]:
    """d(loss)/d(logits) of both passes without the labels' part, and the sum of both divergences.

    With d = log p₁ - log p₂: ∂(KL₁₂ + KL₂₁)/∂z₁ = p₁ (d - KL₁₂) + p₁ - p₂, and the same with 1 and 2 exchanged.
    """
    difference = logs[0] - logs[1]
    p, q = logs[0].exp_(), logs[1].exp_()
    forward = (p * difference).sum(1, keepdim=True)  # KL₁₂ [R, 1]
    backward = -(q * difference).sum(1, keepdim=True)  # KL₂₁ [R, 1]
    p_minus_q = p - q
    first = (p * (difference - forward)).add_(p_minus_q).mul_(alpha / 4).add_(p, alpha=0.5)
    second = (q * (difference + backward)).add_(p_minus_q).mul_(-alpha / 4).add_(q, alpha=0.5)
    return [first, second], (forward + backward).sum()
