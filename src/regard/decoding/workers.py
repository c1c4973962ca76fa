"""Decoding on several CPU cores: a few flights side by side, each in a process of its own.

The products of a step are small, and dividing each among the cores gains little; flights of one core each do not wait
for one another. Each sentence comes out as it would alone (engine.py).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from regard.decoding.engine import decode
from regard.decoding.inputs import Settings
from regard.decoding.running_batch import Hypothesis, Result
from regard.decoding.search import Search
from regard.machine.processes import Helpers, can_fork
from regard.models.recorder import watched

if TYPE_CHECKING:
    from regard.decoding.shortlist import Shortlist

WORTH = 1024  # tokens (sentences × beam × length) that a process of its own wants


class Flights:
    """``decode`` on as many of PyTorch's threads as are worth it, a process each.

    They are kept for the next text, as long as it is to be decoded by the same model in the same way.
    """

    def __init__(self) -> None:
        self.helpers: Helpers | None = None
        self.way: tuple[Any, ...] = ()  # in which they decode

    def decode(
        self,
        model: Any,
        sources: Sequence[Sequence[int]],
        settings: Settings,
        search: Search,
        *,
        batch_tokens: int,
        shortlist: Shortlist | None = None,
    ) -> list[Result]:
        """The results of all sources, in their order; each flight may have ``batch_tokens``."""

        def flight(mine: Sequence[Sequence[int]]) -> list[Result]:
            return list(decode(model, mine, settings, search, batch_tokens=batch_tokens, shortlist=shortlist))

        tokens = search.beam * sum(len(ids) + 1 for ids in sources)
        on_cpu = model.output_table()[0].device.type == "cpu"
        most = min(torch.get_num_threads(), tokens // WORTH) if on_cpu and not watched(model) else 1
        with can_fork() as forks:
            if most < 2 or not forks:
                return flight(sources)
            way = model, settings, search, batch_tokens, shortlist, most
            if self.helpers is None or not self.helpers.ready() or not _same(self.way, way):
                if self.helpers is not None:
                    self.helpers.close()
                self.helpers, self.way = Helpers(lambda job: _packed(flight(json.loads(job))), most - 1), way
            order = sorted(range(len(sources)), key=lambda i: -len(sources[i]))
            parts = [order[first::most] for first in range(most)]
            jobs = [json.dumps([list(map(int, sources[i])) for i in part]).encode() for part in parts]
            found = self.helpers.each(jobs)
        results = [
            Result(part[result.index], result.hypotheses)
            for part, packed in zip(parts, found, strict=True)
            for result in _unpacked(packed)
        ]
        return sorted(results, key=lambda result: result.index)


def _same(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    """Whether all is the same thing, or says the same."""
    return len(one) == len(other) and all(
        a is b or (type(a) in (Search, int) and a == b) for a, b in zip(one, other, strict=True)
    )


def _packed(results: list[Result]) -> bytes:
    return json.dumps([(one.index, one.hypotheses) for one in results]).encode()


def _unpacked(part: bytes) -> list[Result]:
    return [Result(index, [Hypothesis(*each) for each in hypotheses]) for index, hypotheses in json.loads(part)]
