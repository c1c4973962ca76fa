"""What the validations of all tasks share: the loss of held-out examples, and the request to stop before the end."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regard.config import Config
from regard.data.batch import Batch
from regard.data.plan import plan
from regard.errors import RegardError
from regard.models.contract import Model
from regard.tasks.objectives import Objective
from regard.tasks.task import Examples, Stop


class Abandoned(Exception):
    """A validation was asked to stop; the model and the random streams are as they were before."""


class HeldOut:
    """Held-out examples in batches, the same at every measurement."""

    def __init__(self, config: Config, examples: Examples, stop: Stop, chosen: NDArray[np.int64] | None = None) -> None:
        """``chosen``: the numbers of the examples that are measured; None: all that fit into a batch."""
        self.examples, self.stop = examples, stop
        sizes = np.maximum.reduce(examples.sides)
        numbers = np.arange(len(sizes)) if chosen is None else chosen
        self.chosen = numbers[sizes[numbers] <= config.training.batch_tokens]
        if not len(self.chosen):
            raise RegardError(
                f"data.valid: none of its {len(numbers):,} examples fits into a batch of "
                f"{config.training.batch_tokens:,} tokens: raise training.batch_tokens"
            )
        self._sizes = sizes[self.chosen]
        self.batches = plan(
            self._sizes,
            examples.targets[self.chosen],
            batch_tokens=config.training.batch_tokens,
            seed=config.seed,
            epoch=0,
        )

    def each(self) -> Iterator[tuple[NDArray[np.int64], Batch]]:
        """The numbers of each batch's examples, and the batch; asks between two of them whether to stop."""
        for update in self.batches:
            raise_if_stopped(self.stop)
            numbers = self.chosen[update.micro[0][0]]
            yield numbers, self.examples.batch(numbers, epoch=0)

    def loss(self, model: Model, objective: Objective) -> float:
        """The mean negative log-probability of a label; NaN where there is none."""
        return self.mean(model, lambda _, batch: objective(model, batch).nll)

    def mean(self, model: Model, nll_of: Callable[[NDArray[np.int64], Batch], Tensor]) -> float:
        """The same where ``nll_of`` sums it for the numbers of examples and their batch on the model's device."""
        device = next(model.parameters()).device
        nll, labels = 0.0, 0
        for numbers, batch in self.each():
            nll += float(nll_of(numbers, batch.to(device)).item())
            labels += batch.target_tokens
        return nll / labels if labels else math.nan

    def rehearse(self, model: Model, objective: Objective) -> None:
        """Run the longest example as a batch of its own."""
        longest = self.chosen[[int(self._sizes.argmax())]]
        device = next(model.parameters()).device
        with evaluating(model):
            objective(model, self.examples.batch(longest, epoch=0).to(device)).nll.item()


def raise_if_stopped(stop: Stop) -> None:
    """Raise ``Abandoned`` if a validation is to stop."""
    if stop():
        raise Abandoned


def score_of(metric: str, values: Mapping[str, Any]) -> float:
    """One number for a measurement: more is better, NaN is worst."""
    score = -values["loss"] if metric == "loss" else values[metric]
    return -math.inf if math.isnan(score) else float(score)


def in_words(figures: Mapping[str, tuple[str, str]], values: Mapping[str, Any]) -> str:
    """The measures of a validation as one line.

    >>> in_words({"loss": ("validation loss", ".3f"), "bleu": ("BLEU", ".2f")}, {"loss": 1.25})
    'validation loss 1.250'
    """
    return " · ".join(f"{name} {values[key]:{form}}" for key, (name, form) in figures.items() if key in values)


@contextlib.contextmanager
def evaluating(model: Model) -> Iterator[None]:
    """The model without dropout and gradients inside; afterwards in the mode that it had."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def spread(count: int, total: int) -> list[int]:
    """``count`` numbers spread evenly over 0 … total-1: the examples shown at every validation.

    >>> spread(2, 8)
    [2, 6]
    """
    return [(2 * number + 1) * total // (2 * count) for number in range(count)]
