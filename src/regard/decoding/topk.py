"""The k best continuations of each hypothesis: by the prepared model where there is one, else from its logits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from regard.accel.prepared import Prepared
from regard.accel.topk import TopK, rows_at_once, topk_of_logits
from regard.models.contract import Model

if TYPE_CHECKING:
    from regard.accel.native import Native


def native_of(model: Model) -> Native | None:
    """The native kernels with which a prepared model ranks."""
    return model.native if isinstance(model, Prepared) else None


def chunk_of(model: Model) -> int:
    """How many rows of logits of a model are made before they are ranked, 0 = all."""
    table = model.output_table()[0]
    return rows_at_once(len(table), table.device, isinstance(model, Prepared) and model.output_layer is not None)


def topk_tokens(
    model: Model,
    hidden: Tensor,
    k: int,
    ends: Tensor,
    *,
    chunk: int = 0,
    suppressed: Tensor | None = None,
    banned: Tensor | None = None,
) -> TopK:
    """The k best continuations of hidden [B, R, D]; see ``topk_of_logits``.

    A prepared model finds them itself, unless tokens are ``banned`` row by row.
    """
    if isinstance(model, Prepared) and banned is None:
        return model.topk(hidden, k, ends, suppressed)
    return topk_of_logits(
        model.logits, hidden, k, ends, chunk=chunk, suppressed=suppressed, banned=banned, native=native_of(model)
    )


def spread(topk: TopK, chosen: Tensor, batch: int, rows: int) -> TopK:
    """The continuations of the ``chosen`` [M] rows among all B × R; the others have no continuation: -inf."""

    def of_all(x: Tensor, nothing: float) -> Tensor:  # [1, M, n] → [B, R, n]
        size = x.shape[-1]
        return x.new_full((batch * rows, size), nothing).index_copy_(0, chosen, x[0]).view(batch, rows, size)

    return TopK(of_all(topk.values, -torch.inf), of_all(topk.tokens, 0), of_all(topk.ends, -torch.inf))
