"""The top-k tokens of each row of scores, and the row's log-sum-exp, reading the scores as little as possible.

``torch.topk`` over a vocabulary keeps (score, index) pairs of all of it, and a log-softmax writes all of it once
more. Here a row is seen as W columns: one vectorised pass takes the maximum of each column, the top-k columns
hold the top-k tokens, and only they are read again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from regard.accel.thresholds import CACHED_LOGITS, COLUMN, LOGITS, REGISTER

if TYPE_CHECKING:
    from regard.accel.native import Native


def rows_at_once(vocabulary: int, device: torch.device, prepacked: bool = False) -> int:
    """How many rows of logits are made before they are ranked, 0 = all; ``prepacked``: by such a table."""
    return max(32, (CACHED_LOGITS if prepacked else LOGITS) // vocabulary) if device.type == "cpu" else 0


@functools.cache
def columns(vocabulary: int) -> int:
    """How many columns of about ``COLUMN`` entries a row of scores has, so that few are left over.

    The number is a multiple of ``REGISTER``: other numbers are read three times as slowly.
    """
    about = range(vocabulary // (2 * COLUMN) // REGISTER * REGISTER + REGISTER, 2 * vocabulary // COLUMN, REGISTER)
    return min(about, key=lambda width: vocabulary % width, default=0)


class TopK(NamedTuple):
    values: Tensor  # [B, R, k] log-probabilities, descending
    tokens: Tensor  # [B, R, k]
    ends: Tensor  # [B, R, E] log-probabilities of the end tokens


def topk_by_columns(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """``scores.topk(k)`` of [M, V] by columns."""
    rows, width = scores.shape[0], columns(scores.shape[1])
    if width < 4 * k:
        values, tokens = scores.topk(k, dim=1)
        return values, tokens
    depth = scores.shape[1] // width
    head = depth * width
    peaks = scores[:, :head].view(rows, depth, width).amax(1)  # [M, W]
    column = peaks.topk(k, dim=1, sorted=False).indices  # [M, k]
    depths = torch.arange(depth, device=scores.device).mul_(width)
    index = (column[:, :, None] + depths).view(rows, k * depth)
    if head < scores.shape[1]:  # the last entries, which belong to no column, are all compared
        tail = torch.arange(head, scores.shape[1], device=scores.device).expand(rows, -1)
        index = torch.cat((index, tail), 1)
    values, position = scores.gather(1, index).topk(k, dim=1)
    return values, index.gather(1, position)


def topk_of_logits(
    logits: Callable[[Tensor], Tensor],
    hidden: Tensor,
    k: int,
    ends: Tensor,
    *,
    chunk: int = 0,
    suppressed: Tensor | None = None,
    banned: Tensor | None = None,
    closed: Tensor | None = None,
    native: Native | None = None,
) -> TopK:
    """The top-k tokens after hidden [B, R, D] by ``logits``, made ``chunk`` rows at a time (0 = of all).

    ``ends`` [E] are the end tokens, none or some: their log-probabilities are given too, suppressed or not.
    ``suppressed`` [n] ids are never chosen, ``banned`` [B, R, m] neither, row by row (-1 = nothing); both keep their
    share of the probability, so that a score stays what the model says of these ids (beam score = forced score).
    Ids that are ``closed`` [B · R, V] have no probability: they are not in the row's vocabulary. ``native``: kernels
    that rank in one pass.
    """
    batch, rows, width = hidden.shape
    flat = hidden.reshape(batch * rows, width)
    banned_rows = None if banned is None else banned.reshape(batch * rows, -1)
    parts = []
    for at in range(0, batch * rows, chunk or batch * rows):
        part = slice(at, at + chunk if chunk else None)
        ban = None if banned_rows is None else banned_rows[part]
        scores = logits(flat[part])
        if closed is not None:
            scores.masked_fill_(closed[part], -torch.inf)
        parts.append(_ranked(scores, k, ends, suppressed, ban, native))
    found = parts[0] if len(parts) == 1 else [torch.cat(x) for x in zip(*parts, strict=True)]
    return TopK(*(x.view(batch, rows, x.shape[-1]) for x in found))


def _ranked(
    scores: Tensor, k: int, ends: Tensor, suppressed: Tensor | None, banned: Tensor | None, native: Native | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """As ``topk_of_logits``, for logits [M, V] that may be overwritten."""
    if scores.dtype not in (torch.float32, torch.float64):
        scores = scores.float()
    k = min(k, scores.shape[1])
    if native is not None and banned is None and scores.dtype == torch.float32:
        return native.topk(scores, k, ends, suppressed)
    left_out: list[Tensor] = []
    of_ends = scores.index_select(1, ends)
    if suppressed is not None:
        left_out.append(scores[:, suppressed])
        scores[:, suppressed] = -torch.inf
    if banned is not None:
        # ``banned`` may name an id twice; the mask counts its probability once.
        mask = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, banned.clamp(min=0), True)
        mask[:, 0] = (banned == 0).any(1)
        left_out.append(torch.where(mask, scores, -torch.inf))
        scores.masked_fill_(mask, -torch.inf)
    values, tokens = topk_by_columns(scores, k)
    # The scores are no longer needed: in place, and log Σ exp = top - log p(top), where p(top) ≥ 1 / V.
    p = torch.softmax(scores, 1, out=scores)
    norm = values[:, :1] - p.gather(1, tokens[:, :1]).log_()
    for part in left_out:
        norm = torch.logaddexp(norm, part.logsumexp(1, keepdim=True))
    # No log-probability is above 0, which the bound of exact stopping relies on: rounding may say otherwise.
    return (values - norm).clamp_(max=0.0), tokens, (of_ends - norm).clamp_(max=0.0)
