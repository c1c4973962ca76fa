"""A worker of the pool: decodes the sentences of all requests together on one core; requests take turns."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import NamedTuple

from regard.decoding.engine import steps
from regard.decoding.messages import to_inputs
from regard.decoding.search import Search
from regard.decoding.waiting import Input, size
from regard.models.contract import Model
from regard.serve.turns import Turns
from regard.text.settings import TextSettings

AHEAD = 2  # running batches whose sentences the scheduler holds, so that a finished one is replaced at once


class Served(NamedTuple):
    """A model as it is decoded (on a CPU its prepared model, accel/prepared.py) and the marks of its text."""

    model: Model
    settings: TextSettings


def work(models: Mapping[str, Served], pipe: Connection, batch_tokens: int) -> None:
    """Decode until the other end of the pipe is closed.

    Sentences of one model and one search are decoded together. New ones join them while none of another model or search
    wait. Requests take turns: the scheduler is given as many sentences as ``AHEAD`` running batches hold, and the rest
    waits here, so that a request of one sentence waits for no more than that, however long another request is.
    """
    waiting: dict[tuple[str, str], Turns] = {}

    def receive(wait: bool) -> None:
        while pipe.poll(None if wait else 0):
            name, search, sentences = json.loads(pipe.recv_bytes())
            if name is None:
                for turns in waiting.values():
                    turns.drop(sentences)
                continue
            turns = waiting.setdefault((name, search), Turns())
            turns.add(to_inputs(sentences))
            wait = False

    with contextlib.suppress(EOFError, OSError):
        while True:
            if not waiting:
                receive(wait=True)
            _decode_some(next(iter(waiting)), waiting, models, pipe, batch_tokens, receive)


def _decode_some(
    group: tuple[str, str],
    waiting: dict[tuple[str, str], Turns],
    models: Mapping[str, Served],
    pipe: Connection,
    batch_tokens: int,
    receive: Callable[[bool], None],
) -> None:
    """Decode sentences of one model and search until none are left, or others wait and the scheduler has none."""
    served, search = models[group[0]], read(group[1])
    room = max(1, AHEAD * batch_tokens // search.beam)
    sizes: dict[int, int] = {}  # of the sentences that the scheduler has
    began: dict[int, float] = {}

    def next_ones() -> list[Input]:
        turns = waiting.get(group)
        taken = turns.take(room - sum(sizes.values())) if turns else []
        sizes.update((one.number, size(one)) for one in taken)
        if not turns:
            waiting.pop(group, None)
        return taken

    def more() -> list[Input]:
        receive(False)
        return next_ones() if set(waiting) <= {group} else []

    for step in steps(
        served.model, next_ones(), served.settings, search, batch_tokens=batch_tokens, more=more
    ):  # fmt: skip
        if step.first:
            began |= dict.fromkeys(step.sentences, time.monotonic())
        if step.results:
            found = [(one.index, began.pop(one.index), one.hypotheses) for one in step.results]
            for one in step.results:
                del sizes[one.index]
            pipe.send_bytes(json.dumps(found).encode())
    if group in waiting:  # behind the others
        waiting[group] = waiting.pop(group)


def written(search: Search) -> str:
    """A search as JSON."""
    return json.dumps({**search.__dict__, "length_penalty": str(search.length_penalty)}, sort_keys=True)


def read(search: str) -> Search:
    """A search from the JSON of ``written``."""
    return Search(**json.loads(search))
