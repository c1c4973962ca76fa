"""The pre-flight: runs the largest batch before the first update, so that too little memory fails at once."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from regard.config import TrainingConfig
from regard.data.batch import Batch
from regard.data.plan import Indices, Update, largest
from regard.errors import RegardError
from regard.machine.memory import peak_memory
from regard.nn import kernels
from regard.training.feed import Feed, Item
from regard.training.progress import duration
from regard.training.step import Trainer

WARM = 5000  # examples that subword dropout cuts before memory is measured
SETTLING = 1.1  # growth of the C heap over the first hundred updates (measured: 1.08 to 1.12); later a tenth more
SHAPES = 8  # batches of different sizes run before memory is measured: the heap grows for each


@dataclass(frozen=True)
class Estimate:
    """The memory and time that a training will take."""

    bytes: int  # peak memory of the process, or of the GPU's tensors
    seconds_per_update: float
    sentences: int  # of the largest batch
    source_length: int
    target_length: int
    slow_attention: tuple[str, ...] = ()  # why attention could not be computed by a fast kernel

    def seconds(self, training: TrainingConfig, step: int = 0, elapsed: float = 0.0) -> float:
        """Seconds that a run still takes, without validation, after ``step`` updates in ``elapsed`` seconds."""
        by_steps = max(0, training.steps - step) * self.seconds_per_update
        return min(by_steps, max(0.0, training.minutes * 60 - elapsed)) if training.minutes else by_steps

    def lines(self, training: TrainingConfig, step: int = 0, elapsed: float = 0.0) -> list[str]:
        """What is printed of a run that has made ``step`` updates in ``elapsed`` seconds."""
        sides = [str(length) for length in (self.source_length, self.target_length) if length]
        shape = f"{self.sentences} × {' and '.join(sides)} tokens"
        seconds = self.seconds(training, step, elapsed)
        updates = min(max(0, training.steps - step), round(seconds / self.seconds_per_update))
        return [
            f"largest batch: {shape}; peak memory about {self.bytes / 2**20:,.0f} MiB",
            f"about {self.seconds_per_update:.2f} s an update: {duration(seconds)} for {updates:,}, without validation",
            *(f"attention takes a slower way: {reason}" for reason in self.slow_attention),
        ]


def run_largest(trainer: Trainer, feed: Feed, epoch: int, *, fresh: bool) -> Estimate:
    """Run forward, backward and (on a ``fresh`` run) update with the largest micro-batch, then restore the state.

    A resumed run has its optimizer's moments already, and they are not touched.
    """
    updates, examples, count = feed.plan(epoch), feed.examples, len(feed.sizes)
    indices = largest(updates, examples.sides)
    batch = examples.batch(indices, epoch)
    longest = int(feed.sizes.argmax())
    if feed.config.data.subword_dropout:
        # Fill the sample pools of common words first: allocated later, they would fragment the heap between tensors.
        examples.batch(np.linspace(0, count - 1, min(count, WARM), dtype=np.int64), epoch)
    kernels.slow_calls.clear()
    try:
        with torch.random.fork_rng(devices=[trainer.device] if trainer.device.type == "cuda" else []):
            # The longest example first: a model may have too few positions. Adam's moments exist from here on.
            _run(trainer, examples.batch(np.array([longest]), epoch), fresh)
            for chosen in (indices, *_others(updates, feed.sizes)):
                _run(trainer, examples.batch(chosen, epoch))
            peak = _peak(trainer.device)
            seconds = _seconds_per_update(trainer, feed, updates, epoch)
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not isinstance(error, torch.OutOfMemoryError | MemoryError) and "allocate memory" not in str(error):
            raise
        raise RegardError(
            f"the largest batch ({len(indices)} examples) does not fit into memory: lower training.batch_tokens "
            f"(now {feed.config.training.batch_tokens}) and raise training.accumulate, or lower data.max_length"
        ) from error
    finally:
        if fresh:
            trainer.forget()
    source = 0 if batch.source is None else batch.source.ids.shape[1]
    slow = tuple(sorted(kernels.slow_calls))
    return Estimate(peak, seconds, len(indices), source, batch.target.ids.shape[1], slow)


def _others(updates: list[Update], sizes: NDArray[np.integer]) -> list[Indices]:
    """The micro-batch with the longest examples, the one with the most, and ``SHAPES`` from short to long."""
    micros = [micro for update in updates for rank in update.micro for micro in rank]
    micros.sort(key=lambda micro: int(sizes[micro].max()))
    spread = [micros[len(micros) * number // SHAPES] for number in range(min(SHAPES, len(micros)))]
    return [micros[-1], max(micros, key=len), *spread]


def _run(trainer: Trainer, batch: Batch, with_update: bool = False) -> None:
    trainer.rehearse(Item.of(0, 0, [], [batch]), with_update=with_update)


def _seconds_per_update(trainer: Trainer, feed: Feed, updates: list[Update], epoch: int) -> float:
    """Seconds of an update of median size, from one of its micro-batches, with warm kernels."""
    chosen = sorted(updates, key=lambda update: update.target_tokens)[len(updates) // 2]
    # With a very small corpus this process may have no batch: time another's.
    middle = chosen.micro[feed.group.rank] or next(filter(None, chosen.micro))
    start = time.perf_counter()
    _run(trainer, feed.examples.batch(middle[0], epoch))
    if trainer.device.type == "cuda":
        torch.cuda.synchronize()  # before the clock is read
    return (time.perf_counter() - start) * len(middle)


def _peak(device: torch.device) -> int:
    """The peak memory in bytes to expect of the training."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else int(peak_memory() * SETTLING)
