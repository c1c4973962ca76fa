"""Decoding with any model of the contract: sentences enter a running batch, longest first, and leave when done.

A step is: the model's ``step`` on the newest tokens, the top-k continuations of each hypothesis (topk.py), one step of
the search (search.py, running_batch.py), ``follow`` for the state. The host asks which sentences are done after every
step on a CPU, after ``STEPS_UNSEEN`` steps on an accelerator, where asking waits for the device. A sentence's result
does not depend on the other sentences of its batch.
"""

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
from regard.accel.topk import TopK
from regard.accel.ways import switched_on
from regard.decoding.graphs import CAPTURES, Advanced, Graphs
from regard.decoding.inputs import padded
from regard.decoding.repetition import repeating_tokens
from regard.decoding.running_batch import Hypothesis, Result, RunningBatch
from regard.decoding.sampling import Sampling, Strategy, draw, keys_of
from regard.decoding.search import Candidates, Ends, Search
from regard.decoding.topk import chunk_of, spread, topk_tokens
from regard.decoding.waiting import Input, Sized, WaitingInputs, inputs_of
from regard.errors import RegardError
from regard.models.contract import Memory, Model
from regard.models.recorder import watched
from regard.nn.states import KeyValueState
from regard.text.marks import source_ids, target_start
from regard.text.settings import TextSettings

if TYPE_CHECKING:
    from regard.decoding.shortlist import Shortlist, ShortlistHead

__all__ = ["Hypothesis", "Input", "Result", "Search", "Step", "decode", "decode_inputs", "steps"]


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


def decode(
    model: Model,
    sources: Sequence[Sequence[int]] | None,
    settings: TextSettings,
    search: Strategy,
    *,
    prompts: Sequence[Sequence[int]] | None = None,
    language: str = "",
    batch_tokens: int = 4096,
    shortlist: Shortlist | None = None,
    device: torch.device | str | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> Iterator[Result]:
    """The results of all inputs, in their order, as ``decode_inputs`` gives them.

    sources: ids without marks, None for a model without a source; prompts: ids that stand before the output, after the
    start marks; ``language``: the target's, for all.
    """
    return decode_inputs(
        model, inputs_of(sources, prompts, language), settings, search,
        batch_tokens=batch_tokens, shortlist=shortlist, device=device, on_step=on_step,
    )  # fmt: skip


def decode_inputs(
    model: Model,
    inputs: Sequence[Input],
    settings: TextSettings,
    search: Strategy,
    *,
    batch_tokens: int = 4096,
    shortlist: Shortlist | None = None,
    device: torch.device | str | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> Iterator[Result]:
    """The results of all inputs, in their order; ``index`` is the number of the input.

    ``batch_tokens`` bounds sentences × beam × (their longest input, end mark counted) of a running batch; a sentence
    that exceeds the bound is decoded alone. ``shortlist``: only the tokens that it lists for a source are scored.
    ``on_step`` is called with every step.
    """
    ready: dict[int, Result] = {}
    following = iter([one.number for one in inputs])  # whose results are given out next
    number = next(following, None)
    for step in steps(model, inputs, settings, search, batch_tokens=batch_tokens, shortlist=shortlist, device=device):
        if on_step is not None:
            on_step(step)
        ready.update((result.index, result) for result in step.results)
        while number in ready:
            yield ready.pop(number)
            number = next(following, None)


@torch.inference_mode()
def steps(
    model: Model,
    inputs: Sequence[Input],
    settings: TextSettings,
    search: Strategy,
    *,
    batch_tokens: int = 4096,
    shortlist: Shortlist | None = None,
    device: torch.device | str | None = None,
    more: Callable[[], Sequence[Input]] | None = None,
    stopped: Callable[[], Collection[int]] | None = None,
) -> Iterator[Step]:
    """The steps of decoding, each with the results that it finished.

    ``more`` is called before every step for new inputs, which wait behind the others. ``stopped`` is called before
    every step for the numbers of inputs whose results nobody wants any more; these have no result.
    """
    training = model.training
    model.eval()
    try:
        with switched_on():
            yield from _Scheduler(model, inputs, settings, search, batch_tokens, shortlist, device, more, stopped).run()
    finally:
        model.train(training)


class _Scheduler:
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
        self.shortlist, self.more, self.stopped = shortlist, more, stopped
        if shortlist is not None and isinstance(search, Sampling):
            raise RegardError("a shortlist is for search: sampling scores the whole vocabulary")
        # Of the sentences with these numbers, with what is suppressed.
        self.head: tuple[np.ndarray, Tensor | None, ShortlistHead] | None = None
        table = model.output_table()[0]
        limits.product("beam × vocabulary", search.rows, len(table), limits.SCORES)
        self.device = torch.device(device) if device is not None else table.device
        self.chunk = chunk_of(model)
        # Each id once: the probabilities of suppressed tokens are summed, and an id given twice would count twice.
        self.suppressed = self.suppressed_first = self._once(settings.suppressed)
        if settings.suppressed_first:
            self.suppressed_first = self._once((*settings.suppressed, *settings.suppressed_first))
        self.ends = Ends.of(settings.ends, self.device)
        self.graphs = self._graphs()
        leaves_out = isinstance(model, Prepared) and model.leaves_out
        self.leave_share = FINISHED_SHARE_LEFT_OUT if self.graphs or leaves_out else FINISHED_SHARE
        self.look_every = 1 if self.device.type == "cpu" else STEPS_UNSEEN
        self.waiting = WaitingInputs(inputs, settings, search, batch_tokens, model.longest, self.look_every)
        self.running: dict[int, Sized] = {}  # the inputs in the running batch, by number

    def _once(self, ids: Sequence[int]) -> Tensor | None:
        """The ids, each once; None if there are none."""
        return torch.tensor(list(dict.fromkeys(ids)), device=self.device) if ids else None

    def _graphs(self) -> Graphs | None:
        """The capture of steps as graphs, on devices that have graphs and where all steps run the same operators."""
        capture = CAPTURES.get(self.device.type)
        alike = isinstance(self.search, Search) and self.shortlist is None and not self.search.no_repeat_ngram
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
        advanced = self._rank(running, hidden.gather(1, last), None, first=True)
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
            return self._rank(running, hidden, live, first=False)

        graphs = self.graphs if running.uniform and not watched(self.model) else None
        advanced = graphs.step(running, advance) if graphs else advance()
        return self._step_made(running, advanced, first=False, look=look)

    def _rank(self, running: RunningBatch, hidden: Tensor, live: Tensor | None, first: bool) -> Advanced:
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

    def _step_made(self, running: RunningBatch, advanced: Advanced, first: bool, look: bool) -> Step:
        """The ``Step``; its results are those of sentences that are done, of which the host learns if it looks."""
        sentences = running.index.tolist()
        results = running.finish() if look else []
        for result in results:
            del self.running[result.index]
        parents, found = advanced
        return Step(sentences, first, parents, running.last, running.scores, found, running.done, results)

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
            inputs = (self.running.get(number) for number in running.index.tolist())  # None: it has finished
            sources = [() if one is None else one.input.source or () for one in inputs]
            head = self.shortlist.head(self.model, sources, self.ends.tensor, suppressed)
            self.head = running.index, suppressed, head
        return self.head[2]
