"""Lets waiting inputs enter a running batch, runs its steps and removes finished sentences."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from regard import limits
from regard.accel.prepared import Prepared
from regard.accel.thresholds import ENCODED_TOKENS, FINISHED_SHARE, FINISHED_SHARE_LEFT_OUT, STEPS_UNSEEN
from regard.decoding.graphs import CAPTURES, Advanced, Graphs
from regard.decoding.inputs import padded
from regard.decoding.next_tokens import NextTokens
from regard.decoding.running_batch import Result, RunningBatch
from regard.decoding.sampling import Strategy
from regard.decoding.search import Candidates, Ends, Search
from regard.decoding.waiting import Input, Sized, WaitingInputs
from regard.models.contract import Memory, Model
from regard.models.recorder import watched
from regard.nn.states import KeyValueState
from regard.text.marks import source_ids, target_start
from regard.text.settings import TextSettings

if TYPE_CHECKING:
    from regard.decoding.shortlist import Shortlist


@dataclass(frozen=True)
class Step:
    """One step of decoding. ``sentences`` are the numbers of inputs.

    ``parents``, ``tokens`` and ``scores`` [B, N] are the hypotheses that live on; ``candidates`` [B, C] those from
    which they were chosen (None in greedy search and sampling); ``done`` [B]; ``results`` those of sentences that this
    step finished. ``first``: this is the first step of these sentences.
    """

    sentences: list[int]
    first: bool
    parents: Tensor
    tokens: Tensor
    scores: Tensor
    candidates: Candidates | None
    done: Tensor
    results: list[Result]


class Scheduler:
    """Lets inputs enter the running batch, runs its steps and removes finished sentences."""

    def __init__(
        self,
        model: Model,
        inputs: Sequence[Input],
        settings: TextSettings,
        search: Strategy,
        batch_tokens: int,
        shortlist: Shortlist | None,
        device: torch.device | str | None,
        more: Callable[[], Sequence[Input]] | None,
        stopped: Callable[[], Collection[int]] | None,
    ) -> None:
        self.model, self.settings, self.search = model, settings, search
        self.more, self.stopped = more, stopped
        table = model.output_table()[0]
        limits.product("beam × vocabulary", search.rows, len(table), limits.SCORES)
        self.device = torch.device(device) if device is not None else table.device
        self.ends = Ends.of(settings.ends, self.device)
        self.graphs = self._graphs(shortlist)
        leaves_out = isinstance(model, Prepared) and model.leaves_out
        self.leave_share = FINISHED_SHARE_LEFT_OUT if self.graphs or leaves_out else FINISHED_SHARE
        self.look_every = 1 if self.device.type == "cpu" else STEPS_UNSEEN
        self.waiting = WaitingInputs(inputs, settings, search, batch_tokens, model.longest, self.look_every)
        self.running: dict[int, Sized] = {}  # the inputs in the running batch, by number
        self.next_tokens = NextTokens(model, settings, search, self.ends, shortlist, self.running, self.device)

    def _graphs(self, shortlist: Shortlist | None) -> Graphs | None:
        """The capture of steps as graphs, on devices that have graphs and where all steps run the same operators."""
        capture = CAPTURES.get(self.device.type)
        alike = isinstance(self.search, Search) and shortlist is None and not self.search.no_repeat_ngram
        return Graphs(self.model, capture(self.device)) if capture and alike else None

    def run(self) -> Iterator[Step]:
        """Steps until no input waits and none is in the running batch."""
        running: RunningBatch | None = None
        count = 0
        while running is not None or len(self.waiting):
            if running is None:
                running, step = self._prefill(self.waiting.fitting(0, 0))
                yield step
            elif len(self.waiting) and running.finished.any() and (free := self._free(running)):
                new, step = self._prefill(free)
                running.admit(new)
                yield step
            else:
                self._shrink_if_worth(running)
            count += 1
            if self.more is not None:
                self.waiting.extend(self.more())
            if self.stopped is not None:
                running.drop(self.stopped())
            if not running.finished.all():  # an output of one token is done before the first step
                yield self._step(running, look=count % self.look_every == 0)
            if running.finished.all():
                running = None

    def _free(self, running: RunningBatch) -> int:
        """How many inputs enter now: none until so many rows are free that a prefill pays."""
        unfinished = ~running.finished
        count = int(unfinished.sum())
        rows = running.batch - count
        if rows < self.leave_share * running.batch:
            return 0
        longest = max(self.running[number].size for number in running.index[unfinished].tolist())
        fitting = self.waiting.fitting(count, longest)
        # Shorter sentences fit in larger numbers than there are free rows, but further rows mean that all are copied.
        return rows if rows < fitting < rows + self.leave_share * running.batch else fitting

    def _shrink_if_worth(self, running: RunningBatch) -> None:
        finished = running.finished
        # A finished sentence may stay in the batch, but not past its own limit: its cache has no room for more.
        at_limit = (running.ages >= running.limits)[finished].any()
        if finished.any() and (finished.sum() >= self.leave_share * running.batch or at_limit):
            running.keep((~finished).nonzero()[0])

    def _prefill(self, count: int) -> tuple[RunningBatch, Step]:
        """The next ``count`` waiting sentences as a batch: encoded, prompted, and their first tokens ranked."""
        entering = self.waiting.take(count)
        index = np.array([one.input.number for one in entering])
        self.running.update(zip(index.tolist(), entering, strict=True))
        search, settings = self.search, self.settings
        memory = self._encoded(entering) if entering[0].input.source is not None else None
        prompts = [[*target_start(settings, one.input.language), *one.input.prompt] for one in entering]
        prompt = padded(prompts, settings.pad, self.device)
        capacity = max(one.before + one.limit for one in entering) + self.look_every
        state = self.model.start(memory, search.rows, capacity, count)
        limits = np.array([one.limit for one in entering])
        uniform = False
        if self.graphs is not None and isinstance(state, KeyValueState):
            uniform = state.slots.fixed = True
        running = RunningBatch(state, search, self.ends, index, limits, self.device, uniform)
        hidden = self.model.step(prompt.ids, state, prompt.lengths)  # [B, Q, D]
        last = (prompt.lengths - 1)[:, None, None].expand(-1, 1, hidden.shape[2])
        advanced = self.next_tokens.advance(running, hidden.gather(1, last), None, first=True)
        return running, self._step_made(running, advanced, first=True, look=True)

    def _encoded(self, entering: Sequence[Sized]) -> Memory:
        """The memory of these sentences. On a CPU few are encoded at a time: of like length, and to fit its cache."""
        sources = [source_ids(self.settings, one.input.source or (), language=one.input.language) for one in entering]
        parts: list[Memory] = []
        longest = max(map(len, sources))
        at_once = max(1, ENCODED_TOKENS // longest) if self.device.type == "cpu" else len(sources)
        for at in range(0, len(sources), at_once):
            parts.append(self.model.encode(padded(sources[at : at + at_once], self.settings.pad, self.device)))
        return parts[0] if len(parts) == 1 else parts[0].join(parts[1:])

    def _step(self, running: RunningBatch, look: bool) -> Step:
        def advance() -> Advanced:
            # On an accelerator, asking which hypotheses are alive would mean waiting for it.
            live = running.live() if self.device.type == "cpu" and not running.uniform else None
            hidden = self.model.step(running.last, running.state, None, live=live)  # [B, N, D]
            return self.next_tokens.advance(running, hidden, live, first=False)

        graphs = self.graphs if running.uniform and not watched(self.model) else None
        advanced = graphs.step(running, advance) if graphs else advance()
        return self._step_made(running, advanced, first=False, look=look)

    def _step_made(self, running: RunningBatch, advanced: Advanced, first: bool, look: bool) -> Step:
        """The ``Step``; its results are those of sentences that are done, of which the host learns if it looks."""
        sentences = running.index.tolist()
        results = running.finish() if look else []
        for result in results:
            del self.running[result.index]
        parents, found = advanced
        return Step(sentences, first, parents, running.last, running.scores, found, running.done, results)
