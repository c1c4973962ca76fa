"""Decoding with any model of the contract: sentences enter a running batch, longest first, and leave when done.

A step is: the model's ``step`` on the newest tokens, the top-k continuations of each hypothesis (topk.py), one step of
the search (search.py, running_batch.py), ``follow`` for the state. The host asks which sentences are done after every
step on a CPU, after ``STEPS_UNSEEN`` steps on an accelerator, where asking waits for the device. A sentence's result
does not depend on the other sentences of its batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from regard import limits
from regard.accel.prepared import Prepared
from regard.accel.thresholds import ENCODED_TOKENS, FINISHED_SHARE, FINISHED_SHARE_LEFT_OUT, STEPS_UNSEEN
from regard.accel.topk import TopK
from regard.accel.ways import switched_on
from regard.decoding.graphs import CAPTURES, Advanced, Graphs
from regard.decoding.inputs import padded
from regard.decoding.repetition import repeating_tokens
from regard.decoding.running_batch import Hypothesis, Result, RunningBatch
from regard.decoding.search import Candidates, Ends, Search
from regard.decoding.topk import chunk_of, spread, topk_tokens
from regard.decoding.waiting import Input, Sized, WaitingInputs
from regard.models.contract import Memory, Model
from regard.models.recorder import watched
from regard.nn.states import KeyValueState
from regard.text.marks import source_ids, target_start
from regard.text.settings import TextSettings

if TYPE_CHECKING:
    from regard.decoding.shortlist import Shortlist, ShortlistHead

__all__ = ["Hypothesis", "Input", "Result", "Search", "Step", "decode", "steps"]


@dataclass(frozen=True)
class Step:
    """One step of decoding. ``sentences`` are the numbers of inputs.

    ``parents``, ``tokens`` and ``scores`` [B, N] are the hypotheses that live on; ``candidates`` [B, 2N] those from
    which they were chosen (None in greedy search); ``done`` [B]; ``results`` those of sentences that this step
    finished. ``first``: this is the first step of these sentences.
    """

    sentences: list[int]
    first: bool
    parents: Tensor
    tokens: Tensor
    scores: Tensor
    candidates: Candidates | None
    done: Tensor
    results: list[Result]


def decode(
    model: Model,
    sources: Sequence[Sequence[int]] | None,
    settings: TextSettings,
    search: Search,
    *,
    prompts: Sequence[Sequence[int]] | None = None,
    batch_tokens: int = 4096,
    shortlist: Shortlist | None = None,
    device: torch.device | str | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> Iterator[Result]:
    """The results of all inputs, in their order.

    sources: ids without end mark, None for a model without a source; prompts: ids that stand before the output, after
    the start marks. ``batch_tokens`` bounds sentences × beam × (their longest input, end mark
    counted) of a running batch; a sentence that exceeds the bound is decoded alone. ``shortlist``: only the tokens that
    it lists for a source are scored. ``on_step`` is called with every step.
    """
    ready: dict[int, Result] = {}
    following = 0  # the number of the input whose result is given out next
    count = len(sources if sources is not None else prompts or ())
    inputs = [
        Input(i, None if sources is None else sources[i], () if prompts is None else prompts[i]) for i in range(count)
    ]
    for step in steps(model, inputs, settings, search, batch_tokens=batch_tokens, shortlist=shortlist, device=device):
        if on_step is not None:
            on_step(step)
        ready.update((result.index, result) for result in step.results)
        while following in ready:
            yield ready.pop(following)
            following += 1


@torch.inference_mode()
def steps(
    model: Model,
    inputs: Sequence[Input],
    settings: TextSettings,
    search: Search,
    *,
    batch_tokens: int = 4096,
    shortlist: Shortlist | None = None,
    device: torch.device | str | None = None,
    more: Callable[[], Sequence[Input]] | None = None,
) -> Iterator[Step]:
    """The steps of decoding, each with the results that it finished.

    ``more`` is called before every step for new inputs, which wait behind the others.
    """
    training = model.training
    model.eval()
    try:
        with switched_on():
            yield from _Scheduler(model, inputs, settings, search, batch_tokens, shortlist, device, more).run()
    finally:
        model.train(training)


class _Scheduler:
    """Lets inputs enter the running batch, runs its steps and removes finished sentences."""

    def __init__(
        self,
        model: Model,
        inputs: Sequence[Input],
        settings: TextSettings,
        search: Search,
        batch_tokens: int,
        shortlist: Shortlist | None,
        device: torch.device | str | None,
        more: Callable[[], Sequence[Input]] | None,
    ) -> None:
        self.model, self.settings, self.search = model, settings, search
        self.shortlist, self.more = shortlist, more
        self.head: tuple[np.ndarray, ShortlistHead] | None = None  # of the sentences with these numbers
        table = model.output_table()[0]
        limits.product("beam × vocabulary", search.beam, len(table), limits.SCORES)
        self.device = torch.device(device) if device is not None else table.device
        self.chunk = chunk_of(model)
        # Each id once: the probabilities of suppressed tokens are summed, and an id given twice would count twice.
        hidden = list(dict.fromkeys(settings.suppressed))
        self.suppressed = torch.tensor(hidden, device=self.device) if hidden else None
        self.ends = Ends.of(settings.ends, self.device)
        self.graphs = self._graphs()
        leaves_out = isinstance(model, Prepared) and model.leaves_out
        self.leave_share = FINISHED_SHARE_LEFT_OUT if self.graphs or leaves_out else FINISHED_SHARE
        self.look_every = 1 if self.device.type == "cpu" else STEPS_UNSEEN
        self.waiting = WaitingInputs(inputs, settings, search, batch_tokens, model.longest, self.look_every)
        self.running: dict[int, Sized] = {}  # the inputs in the running batch, by number

    def _graphs(self) -> Graphs | None:
        """The capture of steps as graphs, on devices that have graphs and where all steps run the same operators."""
        capture = CAPTURES.get(self.device.type)
        alike = self.shortlist is None and not self.search.no_repeat_ngram
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
        prompts = [[*target_start(settings), *one.input.prompt] for one in entering]
        prompt = padded(prompts, settings.pad, self.device)
        capacity = max(one.before + one.limit for one in entering) + self.look_every
        state = self.model.start(memory, search.beam, capacity, count)
        limits = np.array([one.limit for one in entering])
        uniform = False
        if self.graphs is not None and isinstance(state, KeyValueState):
            uniform = state.slots.fixed = True
        running = RunningBatch(state, search, self.ends, index, limits, self.device, uniform)
        hidden = self.model.step(prompt.ids, state, prompt.lengths)  # [B, Q, D]
        last = (prompt.lengths - 1)[:, None, None].expand(-1, 1, hidden.shape[2])
        advanced = self._rank(running, hidden.gather(1, last), None, first=True)
        return running, self._step_made(running, advanced, first=True, look=True)

    def _encoded(self, entering: Sequence[Sized]) -> Memory:
        """The memory of these sentences. On a CPU few are encoded at a time: of like length, and to fit its cache."""
        sources = [source_ids(self.settings, one.input.source or ()) for one in entering]
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
            return self._rank(running, hidden, live, first=False)

        graphs = self.graphs if running.uniform and not watched(self.model) else None
        advanced = graphs.step(running, advance) if graphs else advance()
        return self._step_made(running, advanced, first=False, look=look)

    def _rank(self, running: RunningBatch, hidden: Tensor, live: Tensor | None, first: bool) -> Advanced:
        """Choose the next tokens by the hidden states [B, R, D] of the newest; ``live``: see ``RunningBatch.live``."""
        topk = self._topk(running, hidden, live)
        if self.search.beam == 1:
            running.greedy(topk)
            return Advanced(torch.zeros_like(running.last), None)
        found, survivors = running.beam(topk)
        if not first:  # after the prompt, which all hypotheses share, there is nothing to follow
            running.state.follow(survivors.parents)
        return Advanced(survivors.parents, found)

    def _step_made(self, running: RunningBatch, advanced: Advanced, first: bool, look: bool) -> Step:
        """The ``Step``; its results are those of sentences that are done, of which the host learns if it looks."""
        sentences = running.index.tolist()
        results = running.finish() if look else []
        for result in results:
            del self.running[result.index]
        parents, found = advanced
        return Step(sentences, first, parents, running.last, running.scores, found, running.done, results)

    def _topk(self, running: RunningBatch, hidden: Tensor, chosen: Tensor | None) -> TopK:
        """The top-k continuations after hidden [B, R, D], of the ``chosen`` hypotheses [M] only, or of all."""
        size = self.search.no_repeat_ngram
        banned = repeating_tokens(running.ids, running.ages, size) if size else None
        batch, rows, width = hidden.shape
        if chosen is not None:
            hidden = hidden.reshape(batch * rows, width)[None, chosen]
            banned = None if banned is None else banned.flatten(0, 1)[None, chosen]
        k = self.ends.depth(self.search.rows)
        if self.shortlist is None:
            topk = topk_tokens(
                self.model, hidden, k, self.ends.tensor, chunk=self.chunk, suppressed=self.suppressed, banned=banned
            )
        else:
            row = torch.arange(batch * rows, device=self.device) if chosen is None else chosen
            sentence = row.div(rows, rounding_mode="floor")
            topk = self._shortlist_head(running).topk(hidden, k, sentence, banned)
        return topk if chosen is None else spread(topk, chosen, batch, rows)

    def _shortlist_head(self, running: RunningBatch) -> ShortlistHead:
        """The rows of the output table that the batch's sentences may use; made anew when its sentences change."""
        assert self.shortlist is not None
        if self.head is None or self.head[0] is not running.index:
            inputs = (self.running.get(number) for number in running.index.tolist())  # None: it has finished
            sources = [() if one is None else one.input.source or () for one in inputs]
            self.head = running.index, self.shortlist.head(self.model, sources, self.ends.tensor, self.suppressed)
        return self.head[1]
