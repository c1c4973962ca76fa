"""The best continuations among what the sentences of a batch may use (shortlist.py says what that is)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from regard.decoding.topk import Best, best_tokens, rows_at_once

if TYPE_CHECKING:
    from regard.accel.native import Native


class Narrow:
    """The rows of a model's output table that some sentence of a batch may use, with the face of the model itself.

    ``allowed`` [B, V] says which sentence may use what; those that are ``suppressed`` [n] none may.
    """

    def __init__(self, model: Any, allowed: Tensor, eos: int, suppressed: Tensor | None) -> None:
        table, bias = model.output_table()
        if suppressed is not None:
            allowed = allowed.index_fill(1, suppressed.cpu(), False)
        tokens = allowed.any(0).nonzero()[:, 0]
        self.closed = ~allowed[:, tokens].to(table.device)  # [B, C]
        self.eos = int(torch.searchsorted(tokens, eos))
        self.tokens = tokens.to(table.device)  # [C], ascending
        self.table, self.bias = table[self.tokens], None if bias is None else bias[self.tokens]

    def logits(self, hidden: Tensor, candidates: Tensor | None = None) -> Tensor:
        """hidden [*, D] → [*, C]"""
        return torch.nn.functional.linear(hidden.to(self.table.dtype), self.table, self.bias)

    def best(
        self, hidden: Tensor, k: int, sentence: Tensor, banned: Tensor | None, native: Native | None = None
    ) -> Best:
        """As ``best_tokens``, of hidden [B, R, D], whose rows belong to the sentences [B · R]."""
        if banned is not None:
            place = torch.searchsorted(self.tokens, banned).clamp_(max=len(self.tokens) - 1)
            banned = torch.where(self.tokens[place] == banned, place, -1)
        best = best_tokens(
            self, hidden, k, self.eos,
            chunk=rows_at_once(len(self.tokens), hidden.device), banned=banned, closed=self.closed[sentence],
            native=native,
        )  # fmt: skip
        return best._replace(tokens=self.tokens[best.tokens])
