"""Decoding with any model of the contract: sentences enter a running batch, longest first, and leave when done.

A step is: the model's ``step`` on the newest tokens, the top-k continuations of each hypothesis (topk.py), one step of
the search (search.py, running_batch.py), ``follow`` for the state. The host asks which sentences are done after every
step on a CPU, after ``STEPS_UNSEEN`` steps on an accelerator, where asking waits for the device. A sentence's result
does not depend on the other sentences of its batch.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from regard.accel.ways import switched_on
from regard.decoding.running_batch import Hypothesis, Result
from regard.decoding.sampling import Strategy
from regard.decoding.scheduler import Scheduler, Step
from regard.decoding.search import Search
from regard.decoding.waiting import Input, inputs_of
from regard.models.contract import Model
from regard.text.settings import TextSettings

if TYPE_CHECKING:
    from regard.decoding.shortlist import Shortlist

__all__ = ["Hypothesis", "Input", "Result", "Search", "Step", "decode", "decode_inputs", "steps"]


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
            yield from Scheduler(model, inputs, settings, search, batch_tokens, shortlist, device, more, stopped).run()
    finally:
        model.train(training)
