"""The sentences that are decoded together: their hypotheses, live and finished, as tensors.

Sentences stand on axis 0 and may be of different ages: finished ones leave (``keep``), waiting ones enter
(``admit``). Only ``finish`` loops over sentences.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from regard.accel.topk import TopK
from regard.decoding.sampling import Strategy
from regard.decoding.search import Candidates, Ends, Search, Survivors, candidates, survivors
from regard.errors import RegardError
from regard.models.contract import State
from regard.nn.rows import Rows


class Hypothesis(NamedTuple):
    """An output: ids without start, prompt and end token.

    ``score`` is the sum of the log-probabilities of the ids and the end token, ``normalized`` is divided by the length
    penalty; ``at_limit`` says that the maximum length ended it. ``end`` is the end token, None without one.
    """

    ids: list[int]
    score: float
    normalized: float
    at_limit: bool = False
    end: int | None = None

    @property
    def length(self) -> int:
        """The length by which the score is normalised; the end token is missing at the limit alone."""
        return len(self.ids) + (self.end is not None or not self.at_limit)


@dataclass(frozen=True)
class Result:
    """The n best hypotheses of input ``index``, best first."""

    index: int
    hypotheses: list[Hypothesis]


class RunningBatch:
    """B sentences that are decoded together. Tensors by sentence:

    - live: ``scores`` [B, R], ``ids`` [B, R, C] and ``last`` [B, R] (the newest token); R = 1 before the first step
      and N after it; C is the longest output, and one more, which a sentence that is done may write; ``length`` [B]
      tokens so far, ``limit`` [B] the most there may be;
    - finished: ``finished_normalized``, ``finished_scores`` and ``finished_lengths`` [B, K] (with the end token),
      ``finished_ids`` [B, K, C], best first, -inf where there is none yet;
    - ``done`` [B]: no further hypothesis can be among the finished ones that are kept; ``alive`` [B, R]: this live
      hypothesis may still lead to one that can.

    ``index`` (input numbers), ``ages`` and ``limits`` [B] are kept on the host, where reading them does not wait for
    the device, and so is ``finished`` [B]: the sentence's result was given out, its row is still here. A ``uniform``
    batch runs the same operators at every step, whatever the ages are, so that a step can be captured (graphs.py).
    """

    per_sentence = (
        "scores", "ids", "last", "length", "limit", "bound", "done", "alive",
        "finished_normalized", "finished_scores", "finished_lengths", "finished_ids",
    )  # fmt: skip

    def __init__(
        self, state: State, search: Strategy, ends: Ends, index: np.ndarray, limits: np.ndarray, device: torch.device,
        uniform: bool = False,
    ):  # fmt: skip
        batch, longest, kept = len(index), int(limits.max()), search.kept
        penalty = search.length_penalty
        self.state, self.search, self.ends, self.uniform = state, search, ends, uniform
        self.index, self.limits, self.ages = index, limits, np.zeros(batch, dtype=np.int64)
        self.finished = np.zeros(batch, dtype=bool)
        self.table = penalty.table(longest, device)
        self.scores = torch.zeros(batch, 1, device=device)
        self.ids = torch.zeros(batch, 1, longest + 1, dtype=torch.int64, device=device)
        self.last = torch.zeros(batch, 1, dtype=torch.int64, device=device)
        self.length = torch.zeros(batch, dtype=torch.int64, device=device)
        self.limit = torch.as_tensor(limits, dtype=torch.int64, device=device)
        # score / bound is the most that a live hypothesis can reach. With a negative α the divisor depends on its age
        # and is looked up at every step.
        self.bound = self.table[self.limit]
        self.done = torch.zeros(batch, dtype=torch.bool, device=device)
        self.alive = torch.ones(batch, 1, dtype=torch.bool, device=device)
        self.finished_normalized = torch.full((batch, kept), -torch.inf, device=device)
        self.finished_scores = torch.full((batch, kept), -torch.inf, device=device)
        self.finished_lengths = torch.zeros(batch, kept, dtype=torch.int64, device=device)
        self.finished_ids = torch.zeros(batch, kept, longest + 1, dtype=torch.int64, device=device)

    @property
    def batch(self) -> int:
        return len(self.index)

    def keep(self, staying: np.ndarray) -> None:
        """Keep the sentences in the rows ``staying``, which ascend."""
        index = torch.as_tensor(staying, device=self.scores.device)
        self.state.keep(index)
        for name in self.per_sentence:
            setattr(self, name, getattr(self, name).index_select(0, index))
        for name in ("index", "limits", "ages", "finished"):
            setattr(self, name, getattr(self, name)[staying])

    def admit(self, other: RunningBatch) -> None:
        """Put the sentences of another batch into the rows of finished ones, and further ones behind the last row."""
        finished = torch.as_tensor(self.finished.nonzero()[0], device=self.scores.device)
        free = finished if len(finished) else None
        self.state.admit(other.state, free)
        rows = Rows.of(other.batch, free, self.batch, self.scores.device)
        if other.table.shape[0] > self.table.shape[0]:
            self.table = other.table
        longest = max(self.ids.shape[2], other.ids.shape[2])
        for name in self.per_sentence:
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine.dim() == 3:
                mine, theirs = (torch.nn.functional.pad(x, (0, longest - x.shape[2])) for x in (mine, theirs))
            setattr(self, name, rows.put(mine, theirs))
        for name in ("index", "limits", "ages", "finished"):
            grown = np.resize(getattr(self, name), rows.batch)  # a copy
            grown[rows.index.cpu().numpy()] = getattr(other, name)
            setattr(self, name, grown)

    def drop(self, numbers: Collection[int]) -> None:
        """Nobody wants the results of these inputs any more: their rows are free."""
        rows = np.isin(self.index, list(numbers)) & ~self.finished
        if rows.any():
            self.finished |= rows
            gone = torch.as_tensor(rows, device=self.scores.device)
            self.done = self.done | gone
            self.alive = self.alive & ~gone[:, None]

    def live(self) -> Tensor | None:
        """The numbers [M] of the hypotheses among all B · N that are ``alive``; None: all are."""
        return None if self.alive.all() else self.alive.flatten().nonzero()[:, 0]

    def greedy(self, topk: TopK) -> None:
        """One step of greedy search: each sentence is continued by its best token."""
        token, value = topk.tokens[:, :, 0], topk.values[:, :, 0]  # [B, 1]
        last = self._last()
        if last is not None and self.search.ends_at_limit and self.ends.ids:
            end, which = topk.ends.max(2)
            token, value = torch.where(last, self.ends.tensor[which], token), torch.where(last, end, value)
        self.extend(token, value)

    def extend(self, tokens: Tensor, values: Tensor) -> None:
        """Continue each hypothesis by itself: by tokens [B, N] of log-probabilities ``values`` [B, N]."""
        ends, last = self.ends.among(tokens), self._last()
        ends = ends if last is None else ends | last
        batch, rows = tokens.shape
        if rows != self.ids.shape[1]:  # after the prompt, which all hypotheses share
            self.ids = self.ids.expand(batch, rows, -1).contiguous()
        self.scores = self.scores + values
        at = self.length.clamp(max=self.ids.shape[2] - 1)[:, None, None].expand(batch, rows, 1)
        self.ids.scatter_(2, at, tokens[:, :, None])
        self.length = self.length + 1
        now = ends & self.alive
        divisor = self.table[self.length.clamp(max=self.table.shape[0] - 1)][:, None]
        self.finished_scores = torch.where(now, self.scores, self.finished_scores)
        self.finished_normalized = torch.where(now, self.scores / divisor, self.finished_normalized)
        self.finished_lengths = torch.where(now, self.length[:, None], self.finished_lengths)
        self.finished_ids = self.ids  # each hypothesis, cut by its length
        self.alive = self.alive & ~ends
        self.done = ~self.alive.any(1)
        self.last, self.ages = tokens, self.ages + 1

    def _last(self) -> Tensor | None:
        """Whether the token of this step is the last that a sentence may have [B, 1]; None: it is for none."""
        some = self.uniform or (self.ages + 1 >= self.limits).any()
        return (self.length + 1 >= self.limit)[:, None] if some else None

    def beam(self, topk: TopK) -> tuple[Candidates, Survivors]:
        """One step of beam search; the state has not yet followed the survivors' parents."""
        beam = self.search.rows
        found = candidates(self.scores, topk.values, topk.tokens, self.ends.width(beam))
        last = self._last()
        if last is not None and self.search.ends_at_limit and self.ends.ids:
            found = self._only_ends(found, last, topk.ends)
        ended = self.ends.among(found.tokens)
        ended = ended if last is None else ended | last
        live = survivors(found, beam, ended)
        if self.uniform or self.scores.device.type != "cpu" or ended[:, :beam].any():
            self._add_finished(found, ended[:, :beam])
        batch, _, longest = self.ids.shape
        at = self.length.clamp(max=longest - 1)[:, None, None].expand(batch, beam, 1)
        self.ids = self.ids.gather(1, live.parents[:, :, None].expand(batch, beam, longest))
        self.ids.scatter_(2, at, live.tokens[:, :, None])
        self.scores, self.last = live.scores, live.tokens
        self.length, self.ages = self.length + 1, self.ages + 1
        self._stop()
        return found, live

    def _only_ends(self, found: Candidates, last: Tensor, ends: Tensor) -> Candidates:
        """The candidates; where this token is the ``last`` [B, 1] only the likeliest end token of each hypothesis.

        ends [B, R, E]: log-probabilities of the end tokens.
        """
        values, which = ends.max(2)
        pad = found.scores.shape[1] - ends.shape[1]
        scores, parents = (self.scores + values).sort(dim=1, descending=True)
        tokens = self.ends.tensor[which.gather(1, parents)]
        scores = torch.nn.functional.pad(scores, (0, pad), value=-torch.inf)
        parents, tokens = (torch.nn.functional.pad(x, (0, pad)) for x in (parents, tokens))
        alone = Candidates(scores, parents, tokens)
        return Candidates(*(torch.where(last, one, other) for one, other in zip(alone, found, strict=True)))

    def _add_finished(self, found: Candidates, ends: Tensor) -> None:
        """The first N candidates, where they end [B, N], join the finished hypotheses, of which the best are kept."""
        beam = self.search.rows
        batch, kept, longest = self.finished_ids.shape
        scores, parents, tokens = (x[:, :beam] for x in found)
        length = (self.length + 1)[:, None]
        normalized = scores / self.table[length.clamp(max=self.table.shape[0] - 1)]
        normalized = normalized.masked_fill(~ends | self.done[:, None], -torch.inf)
        ids = self.ids.gather(1, parents[:, :, None].expand(batch, beam, longest))
        at = self.length.clamp(max=longest - 1)[:, None, None].expand(batch, beam, 1)
        ids.scatter_(2, at, tokens[:, :, None])
        self.finished_normalized, order = torch.cat((self.finished_normalized, normalized), 1).topk(kept, dim=1)
        self.finished_scores = torch.cat((self.finished_scores, scores), 1).gather(1, order)
        lengths = length.expand(batch, beam)
        self.finished_lengths = torch.cat((self.finished_lengths, lengths), 1).gather(1, order)
        self.finished_ids = torch.cat((self.finished_ids, ids), 1).gather(
            1, order[:, :, None].expand(batch, kept, longest)
        )

    def _stop(self) -> None:
        """Set which sentences are ``done`` after a step, and which hypotheses of the others are ``alive``."""
        search, worst = self.search, self.finished_normalized[:, -1:]  # [B, 1]
        assert isinstance(search, Search)
        live = self.scores > -torch.inf
        if search.stopping == "first":
            over = ~live[:, 0] | (worst[:, 0] > -torch.inf)
        else:
            alpha, bound = search.length_penalty.alpha, self.bound
            if alpha < 0 or (alpha == 0 and search.stopping == "huggingface"):
                ahead = 0 if search.stopping == "huggingface" else 1  # the shortest that a live one can become
                bound = self.table[(self.length + ahead).clamp(max=self.table.shape[0] - 1)]
            better = self.scores / bound[:, None] > worst
            over = ~better[:, 0]
            # A hypothesis whose bound does not exceed the worst finished one can be left out. Those that follow it in
            # the beam score lower, so that their bounds are lower too: the n best stay those of the full search.
            live = better if search.stopping == "exact" else live
        self.done = self.done | over | (self.length >= self.limit)
        self.alive = live & ~self.done[:, None]

    def finish(self) -> list[Result]:
        """The results of sentences that are done and were not given out before. Waits for the device."""
        new = self.done.cpu().numpy() & ~self.finished
        rows = new.nonzero()[0]
        if not len(rows):
            return []
        self.finished |= new
        index = torch.as_tensor(rows, device=self.scores.device)
        n_best = self.search.n_best
        normalized = self.finished_normalized.index_select(0, index)[:, :n_best].tolist()
        scores = self.finished_scores.index_select(0, index)[:, :n_best].tolist()
        lengths = self.finished_lengths.index_select(0, index)[:, :n_best].tolist()
        ids = self.finished_ids.index_select(0, index)[:, :n_best].tolist()
        results = []
        for b, row in enumerate(rows):
            number, limit = int(self.index[row]), int(self.limits[row])
            hypotheses = [
                self._hypothesis(ids[b][n][:size], scores[b][n], value, limit)
                for n, (size, value) in enumerate(zip(lengths[b], normalized[b], strict=True))
                if value > -torch.inf
            ]
            if not hypotheses:
                raise RegardError(f"input {number + 1}: the model's scores are not finite; are its weights damaged?")
            results.append(Result(number, hypotheses))
        return results

    def _hypothesis(self, ids: list[int], score: float, normalized: float, limit: int) -> Hypothesis:
        """The hypothesis of ``ids``, whose last may be an end token."""
        end = ids[-1] if ids[-1] in self.ends.ids else None
        # At the limit of an exact search the end token was the only one that was allowed.
        at_limit = len(ids) >= limit and (end is None or self.search.ends_at_limit)
        return Hypothesis(ids if end is None else ids[:-1], score, normalized, at_limit, end)
