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
    eos: int,
    *,
    chunk: int = 0,
    suppressed: Tensor | None = None,
    banned: Tensor | None = None,
) -> TopK:
    """The k best continuations of hidden [B, R, D]; see ``topk_of_logits``.

    A prepared model finds them itself, unless tokens are ``banned`` row by row.
    """
    if isinstance(model, Prepared) and banned is None:
        return model.topk(hidden, k, eos, suppressed)
    return topk_of_logits(
        model.logits, hidden, k, eos, chunk=chunk, suppressed=suppressed, banned=banned, native=native_of(model)
    )


def spread(topk: TopK, chosen: Tensor, batch: int, rows: int) -> TopK:
    """The continuations of the ``chosen`` [M] rows among all B × R; the others have no continuation: -inf."""
    k = topk.values.shape[-1]
    values = topk.values.new_full((batch * rows, k), -torch.inf).index_copy_(0, chosen, topk.values[0])
    tokens = topk.tokens.new_zeros((batch * rows, k)).index_copy_(0, chosen, topk.tokens[0])
    ends = topk.eos.new_full((batch * rows,), -torch.inf).index_copy_(0, chosen, topk.eos[0])
    return TopK(values.view(batch, rows, k), tokens.view(batch, rows, k), ends.view(batch, rows))
