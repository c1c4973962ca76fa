"""The training speed of a model shape on random pairs, beside this machine's matrix rate."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from regard.bench.breakdown import breakdown, in_lines
from regard.config import read_config
from regard.data.batch import collate
from regard.data.plan import plan
from regard.machine.memory import keep_memory, peak_memory
from regard.models import registry
from regard.models.contract import Model
from regard.text.settings import TextSettings
from regard.training.feed import Item
from regard.training.rates import matrix_rate, shape_rate, work_of
from regard.training.step import Trainer

PAIRS = 20_000
WARMUP = 3  # updates before the clock starts


@dataclass(frozen=True)
class TrainingSpeed:
    """The measurements. Rates count target tokens, end marks included; ``share`` does not count padding."""

    device: str
    threads: int
    precision: str
    parameters: int
    matrix_rate: float  # operations a second: the best of square and the model's own products
    shape_rate: float  # operations a second of the model's own products
    target_tokens_per_second: float
    seconds_per_update: float  # median
    share: float
    peak_bytes: int
    parts: dict[str, float] = field(default_factory=dict)  # shares of the time, if wanted

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[str]:
        """The figures as lines of text."""
        return [
            f"{self.device}, {self.threads} threads, {self.precision}; {self.parameters / 1e6:.2f} million parameters",
            f"matrix rate {self.matrix_rate / 1e9:,.0f} GFLOP/s; "
            f"{self.shape_rate / 1e9:,.0f} at the model's own shapes",
            f"{self.target_tokens_per_second:,.0f} target tokens/s, {self.seconds_per_update:.3f} s an update, "
            f"{self.share:.0%} of the matrix rate",
            f"peak memory {self.peak_bytes / 2**20:,.0f} MiB",
            *in_lines(self.parts),
        ]


def training_speed(
    model: Mapping[str, Any],
    *,
    vocabulary: int = 8000,
    batch_tokens: int = 4096,
    length: float = 14.0,
    updates: int = 20,
    precision: str = "auto",
    compile: bool = False,
    device: torch.device | str = "cpu",
    seed: int = 1,
    parts: bool = False,
) -> TrainingSpeed:
    """Train on random ids; ``model`` is a ``[model]`` table, ``length`` the mean number of subwords of a sentence.

    With ``parts`` some updates are repeated under the profiler, to measure the shares of the time.
    """
    device = torch.device(device)
    if device.type == "cpu":
        keep_memory()
    data = {"train": ["random"], "valid": "random", "source": "xx", "target": "yy", "vocabulary": vocabulary}
    training = {"batch_tokens": batch_tokens, "precision": precision, "compile": compile}
    config = read_config(None, seed=seed, data=data, model=model, training=training)
    options = registry.options_from(config.model)
    torch.manual_seed(seed)
    built: Model = options.build(vocabulary).to(device)
    trainer = Trainer(config, built, device)
    items = _items(config.seed, vocabulary, batch_tokens, length, WARMUP + updates)
    work = work_of(built)
    seconds = _timed(trainer, items)
    total, timed = sum(seconds), items[WARMUP:]
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_memory()
    # Measured last, since the largest product would change peak and speed.
    own = shape_rate(built, batch_tokens, trainer.precision)
    rate = max(matrix_rate(device, trainer.precision), own)

    def again() -> None:
        trainer.parallel.most = 1  # the profiler sees this thread only
        for step, item in enumerate(items[WARMUP : 2 * WARMUP], start=1):
            trainer.read(trainer.start_update(item, step), step)

    return TrainingSpeed(
        device=str(device) if device.type == "cpu" else torch.cuda.get_device_name(device),
        threads=torch.get_num_threads(),
        precision=str(trainer.precision).removeprefix("torch."),
        parameters=sum(parameter.numel() for parameter in trainer.parameters),
        matrix_rate=rate,
        shape_rate=own,
        target_tokens_per_second=sum(item.target_tokens for item in timed) / total,
        seconds_per_update=statistics.median(seconds),
        share=sum(work.of(*item.lengths) for item in timed) / total / rate,
        peak_bytes=peak,
        parts=breakdown(again, device) if parts else {},
    )


def _timed(trainer: Trainer, items: list[Item]) -> list[float]:
    """Seconds of each update after ``WARMUP``; as in training, the next item is copied during an update."""
    seconds = []
    following = items[0].to(trainer.device)
    for step in range(1, len(items) + 1):
        start = time.perf_counter()
        running = trainer.start_update(following, step)
        following = items[step % len(items)].to(trainer.device)
        trainer.read(running, step)
        if step > WARMUP:
            seconds.append(time.perf_counter() - start)
    return seconds


def random_pairs(
    seed: int, vocabulary: int, length: float, longest: int
) -> tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]]:
    """Random sources and targets, ids without marks; lengths log-normal with σ = 0.4, as in captions and short news."""
    random = np.random.default_rng(seed)
    lengths = np.clip(random.lognormal(np.log(length), 0.4, (2, PAIRS)), 1, longest).astype(np.int64)
    source, target = ([random.integers(4, vocabulary, size=n) for n in side] for side in lengths)
    return source, target


def _items(seed: int, vocabulary: int, batch_tokens: int, length: float, count: int) -> list[Item]:
    """``count`` updates over random pairs."""
    settings = TextSettings()
    source, target = random_pairs(seed, vocabulary, length, batch_tokens - 1)
    lengths = [np.array([len(ids) for ids in side]) for side in (source, target)]
    items: list[Item] = []
    epoch = 0
    while True:
        for update in plan(np.maximum(*lengths) + 1, lengths[1] + 1, batch_tokens=batch_tokens, seed=seed, epoch=epoch):
            if len(items) == count:
                return items
            rows = update.micro[0]
            batches = [collate([source[i] for i in micro], [target[i] for i in micro], settings) for micro in rows]
            items.append(Item.of(epoch, len(items), rows, batches))
        epoch += 1
