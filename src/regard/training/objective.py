"""What is minimised: sums over the real target tokens of a batch, divided by nobody here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

from regard.config import TrainingConfig
from regard.data.batch import Batch
from regard.errors import RegardError
from regard.nn.layout import Output
from regard.nn.loss import linear_cross_entropy


class Sums(NamedTuple):
    """Of one micro-batch, scalars: ``loss`` has a gradient; ``nll`` is -Σ log p(token), for perplexity."""

    loss: Tensor
    nll: Tensor


class Objective(Protocol):
    """A batch's sums; the trainer divides by the target tokens of the whole update, over all its micro-batches."""

    def __call__(self, model: nn.Module, batch: Batch) -> Sums: ...


def build_objective(training: TrainingConfig) -> Objective:
    """The objective that a configuration asks for."""
    if training.rdrop:
        raise RegardError("training.rdrop: R-Drop is not part of this version; leave the key out or set it to 0")
    return CrossEntropy(training.label_smoothing)


@dataclass(frozen=True)
class CrossEntropy:
    """Cross entropy with label smoothing, section 5.4 of the paper; logits are never made for padding."""

    smoothing: float = 0.0

    def __call__(self, model: nn.Module, batch: Batch) -> Sums:
        return self.of(forward(model, batch), model, batch)

    def of(self, output: Output, model: nn.Module, batch: Batch) -> Sums:
        """The sums of a forward pass that was made already."""
        weight, bias = model.output_table()
        loss, nll = linear_cross_entropy(
            output.hidden.flatten(0, 1),  # [B, T, D] → [B·T, D]
            weight,
            batch.labels.flatten(),
            bias=bias,
            smoothing=self.smoothing,
        )
        for extra in output.losses.values():
            loss = loss + extra * batch.target_tokens  # a model's own losses are means over tokens
        return Sums(loss, nll)


def forward(model: Any, batch: Batch) -> Output:
    """Encode and decode a batch: hidden [B, T, D]."""
    memory = model.encode(batch.source) if model.has_source else None
    output: Output = model(batch.target, memory)
    return output
