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
from regard.decoding.flight import Hypothesis, Result
from regard.decoding.inputs import Settings
from regard.decoding.search import Search
from regard.nn.recorder import watched
from regard.processes import can_fork, side_by_side

if TYPE_CHECKING:
    from regard.decoding.shortlist import Shortlist

WORTH = 1024  # tokens (sentences × beam × length) that a process of its own wants


def decode_on_cores(
    model: Any,
    sources: Sequence[Sequence[int]],
    settings: Settings,
    search: Search,
    *,
    batch_tokens: int,
    shortlist: Shortlist | None = None,
) -> list[Result]:
    """``decode``, on as many of PyTorch's threads as are worth it; each flight may have ``batch_tokens``."""

    def flight(mine: Sequence[int]) -> list[Result]:
        part = [sources[i] for i in mine]
        results = decode(model, part, settings, search, batch_tokens=batch_tokens, shortlist=shortlist)
        return [Result(mine[result.index], result.hypotheses) for result in results]

    tokens = search.beam * sum(len(ids) + 1 for ids in sources)
    on_cpu = model.output_table()[0].device.type == "cpu"
    most = min(torch.get_num_threads(), tokens // WORTH) if on_cpu and not watched(model) else 1
    with can_fork() as forks:
        if most < 2 or not forks:
            return flight(range(len(sources)))
        order = sorted(range(len(sources)), key=lambda i: -len(sources[i]))
        parts = side_by_side(lambda mine: _packed(flight(mine)), [order[first::most] for first in range(most)])
    return sorted((result for part in parts for result in _unpacked(part)), key=lambda result: result.index)


def _packed(results: list[Result]) -> bytes:
    return json.dumps([(one.index, one.hypotheses) for one in results]).encode()


def _unpacked(part: bytes) -> list[Result]:
    return [Result(index, [Hypothesis(*each) for each in hypotheses]) for index, hypotheses in json.loads(part)]
