"""The next tokens of a running batch by the hidden states of the newest ones: by search or by sampling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from regard.accel.topk import TopK
from regard.decoding.graphs import Advanced
from regard.decoding.repetition import repeating_tokens
from regard.decoding.running_batch import RunningBatch
from regard.decoding.sampling import Sampling, Strategy, draw, keys_of
from regard.decoding.search import Ends
from regard.decoding.topk import chunk_of, spread, topk_tokens
from regard.decoding.waiting import Sized
from regard.errors import RegardError
from regard.models.contract import Model
from regard.text.settings import TextSettings

if TYPE_CHECKING:
    from regard.decoding.shortlist import Shortlist, ShortlistHead


class NextTokens:
    """Ranks the continuations of live hypotheses, or draws those of samples.

    ``inputs``: those in the running batch, by number, whose sources a ``shortlist`` needs.
    """

    def __init__(
        self,
        model: Model,
        settings: TextSettings,
        search: Strategy,
        ends: Ends,
        shortlist: Shortlist | None,
        inputs: Mapping[int, Sized],
        device: torch.device,
    ) -> None:
        self.model, self.search, self.ends, self.device = model, search, ends, device
        self.shortlist, self.inputs = shortlist, inputs
        if shortlist is not None and isinstance(search, Sampling):
            raise RegardError("a shortlist is for search: sampling scores the whole vocabulary")
        # Of the sentences with these numbers, with what is suppressed.
        self.head: tuple[np.ndarray, Tensor | None, ShortlistHead] | None = None
        self.chunk = chunk_of(model)
        # Each id once: the probabilities of suppressed tokens are summed, and an id given twice would count twice.
        self.suppressed = self.suppressed_first = self._once(settings.suppressed)
        if settings.suppressed_first:
            self.suppressed_first = self._once((*settings.suppressed, *settings.suppressed_first))

    def _once(self, ids: Sequence[int]) -> Tensor | None:
        """The ids, each once; None if there are none."""
        return torch.tensor(list(dict.fromkeys(ids)), device=self.device) if ids else None

    def advance(self, running: RunningBatch, hidden: Tensor, live: Tensor | None, first: bool) -> Advanced:
        """Choose the next tokens by the hidden states [B, R, D] of the newest; ``live``: see ``RunningBatch.live``."""
        if isinstance(self.search, Sampling):
            running.extend(*self._draw(self.search, running, hidden, live, first))
            return Advanced(torch.arange(self.search.n, device=self.device).expand_as(running.last), None)
        topk = self._topk(running, hidden, live, first)
        if self.search.beam == 1:
            running.greedy(topk)
            return Advanced(torch.zeros_like(running.last), None)
        found, survivors = running.beam(topk)
        if not first:  # after the prompt, which all hypotheses share, there is nothing to follow
            running.state.follow(survivors.parents)
        return Advanced(survivors.parents, found)

    def _draw(
        self, sampling: Sampling, running: RunningBatch, hidden: Tensor, chosen: Tensor | None, first: bool
    ) -> tuple[Tensor, Tensor]:
        """The tokens that samples draw after hidden [B, R, D] and their log-probabilities, both [B, N]."""
        batch, rows, width = hidden.shape
        keys = torch.from_numpy(keys_of(sampling.seed, running.index, sampling.n, running.ages)).to(self.device)
        banned = self._banned(running)
        banned = None if banned is None else banned.flatten(0, 1)
        hidden, keys = hidden.reshape(batch * rows, width), keys.view(batch * rows, -1)
        if chosen is not None:
            hidden, keys = hidden[chosen], keys[chosen]
            banned = None if banned is None else banned[chosen]
        suppressed = self.suppressed_first if first else self.suppressed
        tokens, values = draw(
            self.model, hidden, sampling, keys, chunk=self.chunk, suppressed=suppressed, banned=banned
        )
        if chosen is not None:
            tokens = tokens.new_zeros(batch * rows, 1).index_copy_(0, chosen, tokens)
            values = values.new_full((batch * rows, 1), -torch.inf).index_copy_(0, chosen, values)
        return tokens.view(batch, -1), values.view(batch, -1)

    def _banned(self, running: RunningBatch) -> Tensor | None:
        """The tokens [B, R, m] that would repeat an n-gram; None: no token is banned."""
        size = self.search.no_repeat_ngram
        return repeating_tokens(running.ids, running.ages, size) if size else None

    def _topk(self, running: RunningBatch, hidden: Tensor, chosen: Tensor | None, first: bool) -> TopK:
        """The top-k continuations after hidden [B, R, D], of the ``chosen`` hypotheses [M] only, or of all."""
        banned = self._banned(running)
        suppressed = self.suppressed_first if first else self.suppressed
        batch, rows, width = hidden.shape
        if chosen is not None:
            hidden = hidden.reshape(batch * rows, width)[None, chosen]
            banned = None if banned is None else banned.flatten(0, 1)[None, chosen]
        k = self.ends.depth(self.search.rows)
        if self.shortlist is None:
            topk = topk_tokens(
                self.model, hidden, k, self.ends.tensor, chunk=self.chunk, suppressed=suppressed, banned=banned
            )
        else:
            row = torch.arange(batch * rows, device=self.device) if chosen is None else chosen
            sentence = row.div(rows, rounding_mode="floor")
            topk = self._shortlist_head(running, suppressed).topk(hidden, k, sentence, banned)
        return topk if chosen is None else spread(topk, chosen, batch, rows)

    def _shortlist_head(self, running: RunningBatch, suppressed: Tensor | None) -> ShortlistHead:
        """The rows of the output table that the batch's sentences may use; made anew when its sentences change."""
        assert self.shortlist is not None
        if self.head is None or self.head[0] is not running.index or self.head[1] is not suppressed:
            inputs = (self.inputs.get(number) for number in running.index.tolist())  # None: it has finished
            sources = [() if one is None else one.input.source or () for one in inputs]
            head = self.shortlist.head(self.model, sources, self.ends.tensor, suppressed)
            self.head = running.index, suppressed, head
        return self.head[2]
