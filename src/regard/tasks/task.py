"""The task protocol: all that training knows of a task (translation, classification, …).

A task says which columns its corpora have, how examples become batches, what the loss is, and what a validation
measures and prints. Training holds no task's rules of its own. The pipeline of a task stands in the table of tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from regard.config import Config, DataConfig, DecodingConfig, TrainingConfig
from regard.data.batch import Batch
from regard.data.columns import Column
from regard.data.plan import Indices
from regard.data.prepare import Prepared
from regard.data.shards import Corpus
from regard.directory import Loaded
from regard.models.registry import Architecture
from regard.tasks.objectives import Objective
from regard.text.settings import TextSettings

Stop = Callable[[], bool]  # asked between batches of a validation: stop now?


class Examples(Protocol):
    """The n examples that batches are made of, by number."""

    @property
    def sides(self) -> tuple[NDArray[np.int64], ...]:
        """The length of each side of each example, [n] each, marks counted: a batch is padded to the longest."""
        ...

    @property
    def targets(self) -> NDArray[np.int64]:
        """How many labels of each example have a loss, [n]."""
        ...

    @property
    def corpus_of(self) -> NDArray[np.integer] | None:
        """The number of the training corpus of each example, for ``data.shares``; None: all are of one."""
        ...

    def batch(self, indices: Indices, epoch: int) -> Batch:
        """These examples as tensors; what is drawn at random depends on seed, epoch and number alone."""
        ...

    def where(self, index: int, epoch: int) -> str:
        """The place of an example, "file:line"; each epoch may cut a text into other examples."""
        ...


class Validation(Protocol):
    """A validation corpus, ready to be measured again and again."""

    remark: str  # a line about examples that cannot be scored, or ""
    count: int  # examples that are measured

    def measure(self, decoding: DecodingConfig | None = None) -> dict[str, Any]:
        """The measures by name, and "samples": tables of "source", "hypothesis" and, if there is one, "reference".

        ``decoding`` is the search that users get, for the final choice of weights. Raises ``Abandoned`` if stopped.
        """
        ...

    def rehearse(self) -> None:
        """Run the longest example: a model that has no such position says so before the first update."""
        ...


@dataclass(frozen=True)
class Card:
    """The task's part of a model card."""

    title: str
    command: str  # that runs the model; {run} stands for the run's directory
    examples: str  # what the examples of a corpus are, as a plural
    note: str  # below the figures; {key} stands for a measure


class Task(Protocol):
    """One task. An instance has no state: all that a run knows is handed to it."""

    @property
    def name(self) -> str: ...

    @property
    def figures(self) -> Mapping[str, tuple[str, str]]:
        """The measures of a validation that are printed, in order: key → (its name in print, its format)."""
        ...

    @property
    def metrics(self) -> tuple[str, ...]:
        """The measures by which weights can be chosen, the usual one first; less "loss" is better, else more is."""
        ...

    @property
    def specials(self) -> tuple[str, ...]:
        """Special tokens that its tokenizers have beside the usual four."""
        ...

    def check(self, config: Config, architecture: Architecture) -> None:
        """A RegardError for a configuration that does not fit the task, before anything is read."""
        ...

    def columns(self, data: DataConfig) -> tuple[Column, ...]:
        """The columns of a corpus; a text alone is a stream."""
        ...

    def settings(self, config: Config, prepared: Prepared) -> TextSettings:
        """The text settings of a model with fresh weights, without ``max_length``."""
        ...

    def max_length(self, config: Config, prepared: Prepared) -> int:
        """The longest text that the model learns, in tokens without marks."""
        ...

    def options(self, options: Any, labels: tuple[str, ...]) -> Any:
        """The architecture's options, completed by the task's head and the corpus's labels."""
        ...

    def examples(self, config: Config, prepared: Prepared, settings: TextSettings) -> Examples:
        """The training examples."""
        ...

    def objective(self, training: TrainingConfig) -> Objective: ...

    def validation(self, config: Config, corpus: Corpus, loaded: Loaded, stop: Stop) -> Validation: ...

    def card(self, config: Config, loaded: Loaded) -> Card: ...
