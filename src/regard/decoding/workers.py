"""Decoding on several CPU cores: a few flights side by side, each with a thread of its own.

The products of a step are small, and dividing each among the cores gains little: two flights of one thread make 1.3
times (beam 5) to 1.4 times (greedy) what one flight of two threads makes. Each sentence comes out as it would alone
(engine.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from threading import Event
from typing import TYPE_CHECKING, Any

import torch

from regard.decoding.engine import decode
from regard.decoding.flight import Result
from regard.decoding.inputs import Settings
from regard.decoding.search import Search
from regard.nn.recorder import watched
from regard.threads import MOST, Threads

if TYPE_CHECKING:
    from regard.decoding.shortlist import Shortlist

WORTH = 512  # tokens (sentences × beam × length) that a flight of its own wants


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
    tokens = search.beam * sum(len(ids) + 1 for ids in sources)
    workers = min(torch.get_num_threads(), MOST, tokens // WORTH)
    on_cpu = model.output_table()[0].device.type == "cpu"
    if workers < 2 or not on_cpu or watched(model):  # a recording wants its calls in order
        return list(decode(model, sources, settings, search, batch_tokens=batch_tokens, shortlist=shortlist))
    order = sorted(range(len(sources)), key=lambda i: -len(sources[i]))
    stopped = Event()

    def work(mine: list[int]) -> list[Result]:
        found = []
        part = [sources[i] for i in mine]
        for result in decode(model, part, settings, search, batch_tokens=batch_tokens, shortlist=shortlist):
            found.append(Result(mine[result.index], result.hypotheses))
            if stopped.is_set():
                break
        return found

    threads, training = Threads(workers), model.training
    model.eval()  # here, so that no flight that is done first changes it for the others
    try:
        with threads.pool:
            try:
                parts = threads.each(work, (order[first::workers] for first in range(workers)))
            finally:
                stopped.set()
    finally:
        model.train(training)
    return sorted((result for part in parts for result in part), key=lambda result: result.index)
