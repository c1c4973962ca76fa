"""Decoding on several CPU cores: a running batch a core, each in a process of its own.

The products of a step are small, and dividing each among the cores gains little; batches of one core each do not wait
for one another. Each sentence comes out as it would alone (engine.py).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from regard.accel.thresholds import PROCESS_TOKENS
from regard.decoding.engine import decode
from regard.decoding.running_batch import Hypothesis, Result
from regard.decoding.search import Search
from regard.machine.processes import ForkedWorkers, can_fork
from regard.models.contract import Model
from regard.models.recorder import watched
from regard.text.settings import TextSettings

if TYPE_CHECKING:
    from regard.decoding.shortlist import Shortlist


class DecodingWorkers:
    """``decode`` in as many processes as PyTorch has threads, fewer for little text.

    The processes are kept for the next text, as long as the model and the other arguments stay the same.
    """

    def __init__(self) -> None:
        self.forked: ForkedWorkers | None = None
        self.arguments: tuple[Any, ...] = ()  # with which they decode

    def decode(
        self,
        model: Model,
        sources: Sequence[Sequence[int]],
        settings: TextSettings,
        search: Search,
        *,
        batch_tokens: int,
        shortlist: Shortlist | None = None,
    ) -> list[Result]:
        """The results of all sources, in their order; each process may have ``batch_tokens``."""

        def decoded(mine: Sequence[Sequence[int]]) -> list[Result]:
            return list(decode(model, mine, settings, search, batch_tokens=batch_tokens, shortlist=shortlist))

        tokens = search.beam * sum(len(ids) + 1 for ids in sources)
        on_cpu = model.output_table()[0].device.type == "cpu"
        most = min(torch.get_num_threads(), tokens // PROCESS_TOKENS) if on_cpu and not watched(model) else 1
        with can_fork() as forks:
            if most < 2 or not forks:
                return decoded(sources)
            arguments = model, settings, search, batch_tokens, shortlist, most
            if self.forked is None or not self.forked.ready() or not _same(self.arguments, arguments):
                if self.forked is not None:
                    self.forked.close()
                self.forked = ForkedWorkers(lambda job: _written(decoded(json.loads(job))), most - 1)
                self.arguments = arguments
            order = sorted(range(len(sources)), key=lambda i: -len(sources[i]))
            parts = [order[first::most] for first in range(most)]
            jobs = [json.dumps([list(map(int, sources[i])) for i in part]).encode() for part in parts]
            found = self.forked.each(jobs)
        results = [
            Result(part[result.index], result.hypotheses)
            for part, message in zip(parts, found, strict=True)
            for result in _read(message)
        ]
        return sorted(results, key=lambda result: result.index)


def _same(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    """Whether two tuples of arguments hold the same objects; searches and numbers may be equal instead."""
    return len(one) == len(other) and all(
        a is b or (type(a) in (Search, int) and a == b) for a, b in zip(one, other, strict=True)
    )


def _written(results: list[Result]) -> bytes:
    return json.dumps([(one.index, one.hypotheses) for one in results]).encode()


def _read(message: bytes) -> list[Result]:
    return [Result(index, [Hypothesis(*each) for each in hypotheses]) for index, hypotheses in json.loads(message)]
