"""Training objectives: loss sums over the labels of a batch that have a loss; the trainer divides them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from regard.config import TrainingConfig
from regard.data.batch import Batch
from regard.models.contract import LabelModel, Model
from regard.nn.loss import linear_cross_entropy
from regard.nn.rdrop import linear_rdrop
from regard.nn.sequences import Output


class Sums(NamedTuple):
    """Scalars of one micro-batch: ``loss``, with a gradient, and ``nll`` = -Σ log p(token), for perplexity."""

    loss: Tensor
    nll: Tensor


class Objective(Protocol):
    """Computes the sums of a batch. The trainer divides by the target tokens of the whole update, all micro-batches.

    ``passes`` is the number of forward passes of a batch, for the count of operations.
    """

    @property
    def passes(self) -> int: ...

    def __call__(self, model: Model, batch: Batch) -> Sums: ...


def token_objective(training: TrainingConfig) -> Objective:
    """The objective of tasks whose labels are tokens."""
    if training.rdrop:
        return RDrop(training.label_smoothing, training.rdrop)
    return CrossEntropy(training.label_smoothing)


@dataclass(frozen=True)
class CrossEntropy:
    """Cross entropy with label smoothing (section 5.4 of the paper); padding gets no logits."""

    smoothing: float = 0.0
    passes = 1

    def __call__(self, model: Model, batch: Batch) -> Sums:
        return self.of(forward(model, batch), model, batch)

    def of(self, output: Output, model: Model, batch: Batch) -> Sums:
        """The sums of a given forward pass."""
        weight, bias = model.output_table()
        loss, nll = linear_cross_entropy(
            output.hidden.flatten(0, 1),  # [B, T, D] → [B·T, D]
            weight,
            batch.labels.flatten(),
            bias=bias,
            smoothing=self.smoothing,
            count=batch.target_tokens,
        )
        for extra in output.losses.values():
            loss = loss + extra * batch.target_tokens  # a model's own losses are means over tokens
        return Sums(loss, nll)


@dataclass(frozen=True)
class RDrop:
    """R-Drop (Liang et al. 2021): two passes with different dropout, whose distributions are pulled together."""

    smoothing: float
    alpha: float
    passes = 2

    def __call__(self, model: Model, batch: Batch) -> Sums:
        source = None if batch.source is None else batch.source.twice()
        output = forward(model, replace(batch, source=source, target=batch.target.twice()))
        first, second = output.hidden.flatten(0, 1).chunk(2)  # twice [B·T, D]
        weight, bias = model.output_table()
        loss, nll = linear_rdrop(
            first, second, weight, batch.labels.flatten(), bias=bias, smoothing=self.smoothing, alpha=self.alpha,
            count=batch.target_tokens,
        )  # fmt: skip
        for extra in output.losses.values():
            loss = loss + extra * batch.target_tokens
        return Sums(loss, nll)


def forward(model: Model, batch: Batch) -> Output:
    """Encode and decode a batch: hidden [B, T, D]."""
    memory = model.encode(batch.source) if model.has_source and batch.source is not None else None
    output: Output = model(batch.target, memory)
    return output


@dataclass(frozen=True)
class LabelCrossEntropy:
    """Cross entropy of the labels of texts, [B] in the batch, with label smoothing."""

    smoothing: float = 0.0
    passes = 1

    def __call__(self, model: Model, batch: Batch) -> Sums:
        return self.of(label_model(model).label_scores(batch.target), batch)

    def of(self, scores: Tensor, batch: Batch) -> Sums:
        """The sums of given scores [B, C]."""
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        loss = F.cross_entropy(scores, batch.labels, label_smoothing=self.smoothing, reduction="sum")
        nll = F.cross_entropy(scores.detach(), batch.labels, reduction="sum")
        return Sums(loss, nll)


def label_model(model: Model) -> LabelModel:
    """The model, for the type checker, as one with ``label_scores``: ``Architecture.labels`` says that it has them."""
    return cast("LabelModel", model)
