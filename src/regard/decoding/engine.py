"""Decoding with any model of the contract: sentences enter by length, leave when they are done, and come out in order.

A step is: the model's ``step`` on the newest tokens, the best continuations of each hypothesis (best.py), one step of
the search (search.py, flight.py), ``follow`` for the state. On a CPU the host looks once a step for what is done, on an
accelerator every ``LOOK`` steps. A sentence's result does not depend on which others share its batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from regard import limits
from regard.accel.stack import CompiledStack
from regard.accel.ways import switched_on
from regard.decoding.graphs import CAPTURES, Advanced, Graphs
from regard.decoding.inputs import Settings, padded
from regard.decoding.narrow import Narrow
from regard.decoding.running_batch import Flight, Hypothesis, Result
from regard.decoding.search import Candidates, Search
from regard.decoding.topk import Best, best_tokens, rows_at_once, spread
from regard.errors import RegardError
from regard.models.recorder import watched
from regard.nn.sequences import Memory
from regard.nn.states import KeyValueState

if TYPE_CHECKING:
    from regard.decoding.shortlist import Shortlist

__all__ = ["Hypothesis", "Record", "Result", "Search", "decode"]

LOOK = 4  # steps between two looks of the host, where looking means waiting for an accelerator
ENCODED = 2048  # tokens that a CPU encodes at once
LEAVE = 0.2  # the landed share of a flight at which it is filled up or, when nobody waits, made smaller
LEFT_OUT = 0.4  # the same where a step leaves out those that have landed (nn/compiled.py)


@dataclass(frozen=True)
class Input:
    """What is to be decoded, under a number of its own."""

    number: int
    source: Sequence[int] | None  # without end mark
    prompt: Sequence[int] = ()  # what stands before the output, after the start mark and the forced prefix


@dataclass(frozen=True)
class Record:
    """One step, as the viewer and streams read it. Sentences are given by their number in the input.

    ``parents``, ``tokens`` and ``scores`` [B, N] are the hypotheses that live on; ``candidates`` [B, 2N] all that were
    looked at (None in greedy search); ``done`` [B]; ``results`` those that were finished with this step. ``first``: it
    is these sentences' first step.
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
    model: Any,
    sources: Sequence[Sequence[int]] | None,
    settings: Settings,
    search: Search,
    *,
    prompts: Sequence[Sequence[int]] | None = None,
    batch_tokens: int = 4096,
    shortlist: Shortlist | None = None,
    device: torch.device | str | None = None,
    on_record: Callable[[Record], None] | None = None,
) -> Iterator[Result]:
    """The results of all inputs, in their order.

    sources: ids without end mark, None for a model without a source; prompts: ids that stand before the output, after
    the start mark and the forced prefix. ``batch_tokens`` bounds sentences × beam × (their longest input, end mark
    counted) of what is decoded at once; a sentence that is longer alone is decoded alone. ``shortlist``: only what it
    lists for a source is scored.
    """
    ready: dict[int, Result] = {}
    coming = 0
    count = len(sources if sources is not None else prompts or ())
    inputs = [
        Input(i, None if sources is None else sources[i], () if prompts is None else prompts[i]) for i in range(count)
    ]
    for record in records(
        model, inputs, settings, search, batch_tokens=batch_tokens, shortlist=shortlist, device=device
    ):
        if on_record is not None:
            on_record(record)
        ready.update((result.index, result) for result in record.results)
        while coming in ready:
            yield ready.pop(coming)
            coming += 1


@torch.inference_mode()
def records(
    model: Any,
    inputs: Sequence[Input],
    settings: Settings,
    search: Search,
    *,
    batch_tokens: int = 4096,
    shortlist: Shortlist | None = None,
    device: torch.device | str | None = None,
    more: Callable[[], Sequence[Input]] | None = None,
) -> Iterator[Record]:
    """The steps of decoding; the results come in them as they are finished.

    ``more`` is asked before every step for inputs that have come meanwhile, and what it gives waits behind the others.
    """
    training = model.training
    model.eval()
    try:
        with switched_on():
            yield from _Engine(model, inputs, settings, search, batch_tokens, shortlist, device, more).run()
    finally:
        model.train(training)


class _Waiting(NamedTuple):
    """An input with the size that it counts for, the most tokens of its output, and the tokens before that."""

    input: Input
    size: int
    limit: int
    before: int


class _Engine:
    def __init__(
        self,
        model: Any,
        inputs: Sequence[Input],
        settings: Settings,
        search: Search,
        batch_tokens: int,
        shortlist: Shortlist | None,
        device: torch.device | str | None,
        more: Callable[[], Sequence[Input]] | None,
    ) -> None:
        self.model, self.settings, self.search = model, settings, search
        self.batch_tokens, self.shortlist, self.more = batch_tokens, shortlist, more
        self.narrow: tuple[np.ndarray, Narrow] | None = None  # of the sentences with these numbers
        table = model.output_table()[0]
        limits.product("beam × vocabulary", search.beam, len(table), limits.SCORES)
        self.device = torch.device(device) if device is not None else table.device
        # What a twin for decoding on a CPU has (nn/packed.py):
        prepared = getattr(model, "prepared_output", None)
        self.native, self.table = getattr(model, "native", None), getattr(prepared, "matrix", None)
        self.rows = rows_at_once(table.shape[0], self.device, prepared is not None)
        # Each once: what they hide of the probability is added up.
        hidden = list(dict.fromkeys(settings.suppressed))
        self.suppressed = torch.tensor(hidden, device=self.device) if hidden else None
        self.graphs = self._graphs()
        self.leave = LEFT_OUT if self.graphs or isinstance(getattr(model, "decoder", None), CompiledStack) else LEAVE
        self.look = 1 if self.device.type == "cpu" else LOOK
        self.start = [settings.start, *settings.forced_prefix]
        # The longest first: the last flight, which nothing can fill up any more, is then of short sentences.
        self.waiting = deque(sorted(map(self._waiting, inputs), key=lambda one: -one.size))
        self.flying: dict[int, _Waiting] = {}  # by number

    def _graphs(self) -> Graphs | None:
        """What records steps, on devices that can and where all steps are alike."""
        capture = CAPTURES.get(self.device.type)
        alike = self.shortlist is None and not self.search.no_repeat_ngram
        return Graphs(self.model, capture(self.device)) if capture and alike else None

    def _waiting(self, one: Input) -> _Waiting:
        size = len(one.prompt) if one.source is None else max(len(one.source), len(one.prompt))
        limit = max(1, len(one.prompt if one.source is None else one.source) + self.search.max_extra)
        before = len(self.start) + len(one.prompt)
        if self.model.longest is not None:  # no output goes on where the model has learnt no positions any more
            room = self.model.longest - before - self.look
            if room < 1:
                raise RegardError(
                    f"input {one.number + 1}: {before} tokens stand before the output, and the model has learnt "
                    f"{self.model.longest} positions: give a shorter prompt"
                )
            limit = min(limit, room)
        if max(size, before) > limits.LENGTH:
            raise RegardError(
                f"input {one.number + 1}: {max(size, before):,} tokens, expected at most {limits.LENGTH:,}"
            )
        limits.product(f"input {one.number + 1}: beam × length", self.search.beam, before + limit, limits.PLACES)
        return _Waiting(one, size + 1, limit, before)

    def run(self) -> Iterator[Record]:
        """Steps until nothing waits and nothing flies."""
        flight: Flight | None = None
        steps = 0
        while flight is not None or len(self.waiting):
            if flight is None:
                flight, record = self._launch(self._room(0, 0))
                yield record
            elif len(self.waiting) and flight.landed.any() and (free := self._free(flight)):
                newcomers, record = self._launch(free)
                flight.admit(newcomers)
                yield record
            else:
                self._shrink_if_worth(flight)
            steps += 1
            if self.more is not None:
                self.waiting.extend(map(self._waiting, self.more()))
            if not flight.landed.all():  # an output of one token is done before the first step
                yield self._step(flight, look=steps % self.look == 0)
            if flight.landed.all():
                flight = None

    def _room(self, flying: int, longest: int) -> int:
        """How many of the waiting fit beside ``flying`` sentences of at most ``longest`` tokens."""
        count = 0
        for one in self.waiting:
            longest = max(longest, one.size)
            if (flying + count + 1) * self.search.beam * longest > self.batch_tokens:
                break
            count += 1
        return count if flying else max(1, count)

    def _free(self, flight: Flight) -> int:
        """How many enter now: none, until enough places are free for the work to pay."""
        alive = ~flight.landed
        flying = int(alive.sum())
        places = flight.batch - flying
        if places < self.leave * flight.batch:
            return 0
        room = self._room(flying, max(self.flying[number].size for number in flight.index[alive].tolist()))
        # As sentences get shorter more of them have room; but if some come behind, all are copied.
        return places if places < room < places + self.leave * flight.batch else room

    def _shrink_if_worth(self, flight: Flight) -> None:
        landed = flight.landed
        # One that has landed flies on with the others, but not past its own limit: that is what its cache was made for.
        if landed.any() and (landed.sum() >= self.leave * flight.batch or (flight.ages >= flight.limits)[landed].any()):
            self._shrink(flight)

    def _shrink(self, flight: Flight) -> None:
        if flight.landed.any():
            flight.keep((~flight.landed).nonzero()[0])

    def _launch(self, count: int) -> tuple[Flight, Record]:
        """The next ``count`` waiting sentences: encoded, prompted, and their first tokens ranked."""
        launched = [self.waiting.popleft() for _ in range(count)]
        index = np.array([one.input.number for one in launched])
        self.flying.update(zip(index.tolist(), launched, strict=True))
        search, settings = self.search, self.settings
        memory = self._encoded(launched) if launched[0].input.source is not None else None
        prompt = padded([[*self.start, *one.input.prompt] for one in launched], settings.pad, self.device)
        capacity = max(one.before + one.limit for one in launched) + self.look
        state = self.model.start(memory, search.beam, capacity, count)
        limits = np.array([one.limit for one in launched])
        uniform = self.graphs is not None and isinstance(state, KeyValueState)
        if uniform:
            state.fixed = True
        flight = Flight(state, search, settings.eos, index, limits, self.device, uniform)
        hidden = self.model.step(prompt.ids, state, prompt.lengths)  # [B, Q, D]
        last = (prompt.lengths - 1)[:, None, None].expand(-1, 1, hidden.shape[2])
        advanced = self._rank(flight, hidden.gather(1, last), None, first=True)
        return flight, self._record(flight, advanced, first=True, look=True)

    def _encoded(self, launched: Sequence[_Waiting]) -> Memory:
        """The memory of these sentences. On a CPU few are encoded at a time: of like length, and within its cache."""
        sources = [[*(one.input.source or ()), self.settings.eos] for one in launched]
        parts: list[Memory] = []
        longest = max(map(len, sources))
        at_once = max(1, ENCODED // longest) if self.device.type == "cpu" else len(sources)
        for at in range(0, len(sources), at_once):
            parts.append(self.model.encode(padded(sources[at : at + at_once], self.settings.pad, self.device)))
        if len(parts) == 1:
            return parts[0]
        hidden = [torch.nn.functional.pad(part.hidden, (0, 0, 0, longest - part.hidden.shape[1])) for part in parts]
        return Memory(torch.cat(hidden), torch.cat([part.lengths for part in parts]))

    def _step(self, flight: Flight, look: bool) -> Record:
        def advance() -> Advanced:
            # Which are alive an accelerator would have to be waited for.
            live = flight.live() if self.device.type == "cpu" and not flight.uniform else None
            flight.state.live = live
            hidden = self.model.step(flight.last, flight.state, None)  # [B, N, D]
            return self._rank(flight, hidden, live, first=False)

        recorded = self.graphs if flight.uniform and not watched(self.model) else None
        advanced = recorded.step(flight, advance) if recorded else advance()
        return self._record(flight, advanced, first=False, look=look)

    def _rank(self, flight: Flight, hidden: Tensor, live: Tensor | None, first: bool) -> Advanced:
        """From the hidden states [B, R, D] of the newest tokens to the next ones; ``live`` as in ``Flight.live``."""
        best = self._best(flight, hidden, live)
        if self.search.beam == 1:
            flight.greedy(best)
            return Advanced(torch.zeros_like(flight.last), None)
        found, survivors = flight.beam(best)
        if not first:  # after the prompt, which all hypotheses share, there is nothing to follow
            flight.state.follow(survivors.parents)
        return Advanced(survivors.parents, found)

    def _record(self, flight: Flight, advanced: Advanced, first: bool, look: bool) -> Record:
        """What is to be said of a step; the host learns who is done when it looks."""
        sentences = flight.index.tolist()
        results = flight.land() if look else []
        for result in results:
            del self.flying[result.index]
        parents, found = advanced
        return Record(sentences, first, parents, flight.last, flight.scores, found, flight.done, results)

    def _best(self, flight: Flight, hidden: Tensor, chosen: Tensor | None) -> Best:
        """The best continuations of hidden [B, R, D], of the chosen hypotheses [R'] only, or of all."""
        size = self.search.no_repeat_ngram
        banned = repeats(flight.ids, flight.ages, size) if size else None
        batch, rows, width = hidden.shape
        if chosen is not None:
            hidden = hidden.reshape(batch * rows, width)[None, chosen]
            banned = None if banned is None else banned.flatten(0, 1)[None, chosen]
        k = self.search.beam + 1 if self.search.beam > 1 else 1
        if self.shortlist is None:
            best = best_tokens(
                self.model, hidden, k, self.settings.eos,
                chunk=self.rows, suppressed=self.suppressed, banned=banned, native=self.native,
                table=self.table,
            )  # fmt: skip
        else:
            row = torch.arange(batch * rows, device=self.device) if chosen is None else chosen
            sentence = row.div(rows, rounding_mode="floor")
            best = self._narrow(flight).best(hidden, k, sentence, banned, self.native)
        return best if chosen is None else spread(best, chosen, batch, rows)

    def _narrow(self, flight: Flight) -> Narrow:
        """What the sentences of a flight may use, made anew when others are in it."""
        assert self.shortlist is not None
        if self.narrow is None or self.narrow[0] is not flight.index:
            size = len(self.model.output_table()[0])
            flying = (self.flying.get(number) for number in flight.index.tolist())  # those that have landed are not
            sources = [() if one is None else one.input.source or () for one in flying]
            allowed = self.shortlist.allowed(sources, size)
            self.narrow = flight.index, Narrow(self.model, allowed, self.settings.eos, self.suppressed)
        return self.narrow[1]


def repeats(ids: Tensor, ages: np.ndarray, size: int) -> Tensor | None:
    """Which tokens would repeat an n-gram of ``size``: [B, R, m], -1 where none would.

    ids [B, R, C] with ``ages`` [B] tokens each.

    >>> repeats(torch.tensor([[[5, 6, 5, 0]]]), np.array([3]), 2)
    tensor([[[ 6, -1]]])
    """
    longest = int(ages.max())
    if longest < size:
        return None
    age = torch.as_tensor(ages, device=ids.device)
    windows = ids[:, :, :longest].unfold(2, size, 1)  # [B, R, longest - size + 1, size]
    starts = torch.arange(windows.shape[2], device=ids.device)
    same = (starts[None] + size <= age[:, None])[:, None, :].expand(windows.shape[:3])
    for place in range(size - 1):  # the hypothesis' last size - 1 tokens against the head of every window
        at = (age - size + 1 + place).clamp(min=0)[:, None, None].expand(*ids.shape[:2], 1)
        same = same & (windows[..., place] == ids.gather(2, at))
    return windows[..., -1].masked_fill(~same, -1)
