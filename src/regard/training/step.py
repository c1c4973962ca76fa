"""One update of the weights: forward and backward of each micro-batch, then Adam."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from regard.accel.fused import Fused
from regard.accel.ways import switched_on
from regard.config import Config
from regard.data.batch import Batch
from regard.data.random_streams import seed_stream, stream_key
from regard.models.contract import Model
from regard.nn.dropout import drawing_from
from regard.tasks.objectives import Objective, Sums, token_objective
from regard.training import average
from regard.training.distributed import Group
from regard.training.feed import Item
from regard.training.optimizer import build_optimizer, gradient_norm, sum_gradients, update
from regard.training.schedule import learning_rate
from regard.training.thread_parallel import ThreadParallel

Stream = tuple[int, str, int, int, int]  # of random numbers: seed, purpose, update, micro-batch, rank


@dataclass(frozen=True)
class Statistics:
    """Statistics of one update: ``loss`` and ``nll`` are sums over its ``target_tokens``, of all processes."""

    loss: float
    nll: float
    target_tokens: int
    gradient_norm: float
    skipped: bool


class Trainer:
    """A model, its optimizer and its running average, moved one update at a time."""

    def __init__(
        self,
        config: Config,
        model: Model,
        device: torch.device,
        group: Group | None = None,
        objective: Objective | None = None,
    ) -> None:
        """``objective``: the task's; None: that of tokens."""
        self.config, self.model, self.device = config, model, device
        self.group = group or Group()
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = build_optimizer(model, config.training)
        self.fused = Fused(model, device) if config.training.compile else None
        self.objective = objective or token_objective(config.training)
        self.precision = precision(config.training.precision, device)
        self.parallel = ThreadParallel(device)
        self.ema: dict[str, Tensor] = {}
        if config.training.ema:
            self.ema = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

    def weights(self) -> dict[str, Tensor]:
        """The parameters as they lie in memory; a tied table once."""
        return {name: parameter.detach() for name, parameter in self.model.named_parameters()}

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.precision == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.precision)

    def gradients(self, item: Item, step: int) -> Tensor:
        """Gradients of the loss divided by the target tokens of the whole update; its sums [3]: loss, nll, tokens."""
        if self.group.ranks == 1:
            return self._accumulate(item, step, item.target_tokens)
        sums = sum_gradients(self.parameters, self._accumulate(item, step, item.planned_tokens))
        if self.config.data.subword_dropout:
            # Subword dropout makes more tokens than were planned.
            grown = item.planned_tokens / sums[2]
            torch._foreach_mul_([weight.grad for weight in self.parameters if weight.grad is not None], grown)
        return sums

    def _accumulate(self, item: Item, step: int, divisor: int) -> Tensor:
        """Forward and backward of this process's micro-batches."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = torch.zeros((), device=self.device)
        nll = torch.zeros((), device=self.device)
        for micro, batch in enumerate(item.batches):
            # Dropout depends on the update and not on earlier draws, so that resuming needs no generator's state.
            stream = self.config.seed, "dropout", step, micro, self.group.rank
            parts = self.parallel.parts(batch)
            if len(parts) == 1:
                seed_stream(*stream)
                found = [self._sums(batch)]
                torch.autograd.backward(found[0].loss / divisor)
            else:
                found = self._side_by_side(parts, divisor, stream)
            for sums in found:
                loss += sums.loss.detach()
                nll += sums.nll.detach()
        return torch.stack([loss, nll, loss.new_tensor(float(item.target_tokens))])

    def _sums(self, batch: Batch) -> Sums:
        fused = self.fused.switched_on() if self.fused else contextlib.nullcontext()
        with self.autocast(), switched_on(), fused:
            return self.objective(self.model, batch.to(self.device))

    def _side_by_side(self, parts: list[Batch], divisor: int, stream: Stream) -> list[Sums]:
        """The sums of each part, each with a stream of its own; their gradients are added up in order."""

        def work(number: int, part: Batch) -> tuple[Sums, tuple[Tensor | None, ...]]:
            with drawing_from(torch.Generator().manual_seed(stream_key(*stream, number))):
                sums = self._sums(part)
                return sums, torch.autograd.grad(sums.loss / divisor, self.parameters, allow_unused=True)

        found = self.parallel.threads.each(work, range(len(parts)), parts)
        for parameter, *gradients in zip(self.parameters, *(gradients for _, gradients in found), strict=True):
            # Never in place: autograd may have given one tensor to two parameters.
            there = [gradient for gradient in (parameter.grad, *gradients) if gradient is not None]
            parameter.grad = sum(there[1:], start=there[0]).contiguous() if there else None
        return [sums for sums, _ in found]

    def rehearse(self, item: Item, *, with_update: bool = False) -> None:
        """Forward and backward in this process alone; ``with_update`` an optimizer's update too, which moves no weight.

        Such an update leaves moments, which ``forget`` wipes: it is for the time before the first update only.
        """
        self.model.train()
        self._accumulate(item, 0, item.target_tokens)
        if with_update:
            # A rate of 0 moves no weight, and gradients that are not finite are not applied.
            update(self.optimizer, 0.0, gradient_norm(self.parameters), self.config.training.clip_norm)
        self.optimizer.zero_grad(set_to_none=True)

    def forget(self) -> None:
        """No moments, as before the first update."""
        self.optimizer.state.clear()

    def start_update(self, item: Item, step: int) -> Tensor:
        """Start update ``step`` (the first is 1); its statistics [5] are on the device, for ``read``."""
        self.model.train()
        sums = self.gradients(item, step)
        norm = gradient_norm(self.parameters)
        training = self.config.training
        rate = learning_rate(step, training, self.model.width)
        # A loss that is not finite makes the norm so: the update is skipped on either.
        skipped = update(self.optimizer, rate, norm + 0.0 * sums[0], training.clip_norm)
        return torch.cat([sums, torch.stack([norm, skipped])])

    def read(self, statistics: Tensor, step: int) -> Statistics:
        """Wait for an update to end: the one host synchronisation of a step, made once the next batch is at hand."""
        loss, nll, tokens, norm, skipped = statistics.tolist()
        if self.ema and not skipped:
            average.follow(self.ema, self.weights(), self.config.training.ema, step)
        return Statistics(loss, nll, int(tokens), norm, bool(skipped))


def precision(name: str, device: torch.device) -> torch.dtype:
    """The arithmetic of the products: "auto" is bf16 on GPUs that are made for it, fp32 elsewhere."""
    if name == "auto":
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if fast else torch.float32
    return torch.bfloat16 if name == "bf16" else torch.float32
