"""Decoding on several CPU cores: a running batch a core, each in a process of its own.

The products of a step are small, and dividing each among the cores gains little; batches of one core each do not wait
for one another. Each sentence comes out as it would alone (engine.py).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from regard.accel.thresholds import PROCESS_TOKENS
from regard.decoding.engine import decode_inputs, steps
from regard.decoding.messages import decoded, encoded, of_inputs, of_results, of_step, to_inputs, to_results, to_step
from regard.decoding.running_batch import Result
from regard.decoding.sampling import Strategy
from regard.decoding.scheduler import Step
from regard.decoding.waiting import Input, size, tokens_of
from regard.machine.processes import ForkedWorkers, can_fork
from regard.models.contract import Model
from regard.models.recorder import watched
from regard.text.settings import TextSettings

if TYPE_CHECKING:
    from regard.decoding.shortlist import Shortlist


class DecodingWorkers:
    """``decode_inputs`` in as many processes as PyTorch has threads, fewer for little text.

    The processes are kept for the next text, as long as the model and the other arguments stay the same.
    """

    def __init__(self) -> None:
        self.forked: ForkedWorkers | None = None
        # With which they decode: for others they are started anew. Objects are compared by identity.
        self.objects: tuple[Any, ...] = ()
        self.values: tuple[Any, ...] = ()

    def decode(
        self,
        model: Model,
        inputs: Sequence[Input],
        settings: TextSettings,
        search: Strategy,
        *,
        batch_tokens: int,
        shortlist: Shortlist | None = None,
        on_step: Callable[[Step], None] | None = None,
    ) -> list[Result]:
        """The results of all inputs, in their order; each process may have ``batch_tokens``.

        ``on_step`` is called here with the steps of every process. Where a process is killed, its inputs begin anew.
        """
        options: dict[str, Any] = {"batch_tokens": batch_tokens, "shortlist": shortlist}

        def work(job: bytes) -> bytes | Generator[bytes, None, bytes]:
            with_steps, mine = decoded(job)
            if with_steps:
                return _messages(steps(model, to_inputs(mine), settings, search, **options))
            return encoded(of_results(list(decode_inputs(model, to_inputs(mine), settings, search, **options))))

        tokens = tokens_of(inputs, search)
        on_cpu = model.output_table()[0].device.type == "cpu"
        most = min(torch.get_num_threads(), tokens // PROCESS_TOKENS) if on_cpu and not watched(model) else 1
        with can_fork() as forks:
            if most < 2 or not forks:
                return list(decode_inputs(model, inputs, settings, search, on_step=on_step, **options))
            objects, values = (model, shortlist), (settings, search, batch_tokens, most)
            same = values == self.values and all(map(_is, objects, self.objects))
            if self.forked is None or not self.forked.ready() or not same:
                if self.forked is not None:
                    self.forked.close()
                self.forked = ForkedWorkers(work, most - 1)
                self.objects, self.values = objects, values
            order = sorted(inputs, key=lambda one: -size(one))
            jobs = [encoded((on_step is not None, of_inputs(order[first::most]))) for first in range(most)]
            on_message = None if on_step is None else lambda message: on_step(to_step(decoded(message)))
            found = self.forked.each(jobs, on_message)
        results = {result.index: result for message in found for result in to_results(decoded(message))}
        return [results[one.number] for one in inputs]


def _messages(steps: Iterator[Step]) -> Generator[bytes, None, bytes]:
    """The steps as messages; returns the results."""
    results: list[Result] = []
    for step in steps:
        yield encoded(of_step(step))
        results += step.results
    return encoded(of_results(results))


def _is(one: object, other: object) -> bool:
    return one is other
