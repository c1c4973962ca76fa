"""Hugging Face's Trainer with MarianMT, timed: python trainer.py DATA SHAPE.json. Its last line is a JSON object.

The batches, loss and optimizer of loop.py; nothing is saved, evaluated or reported. The clock runs from the end of the
warm-up updates to the end of the last.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from loop import IGNORED, PAD, batches, marian
from torch.utils.data import IterableDataset
from transformers import Trainer, TrainerCallback, TrainingArguments


class Batches(IterableDataset):
    """Batches as they are, one an item."""

    def __init__(self, folder: Path, shape: dict[str, Any]) -> None:
        self.folder, self.shape = folder, shape

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for source, target, labels in batches(self.folder, self.shape["batch_tokens"], self.shape["seed"]):
            yield {
                "input_ids": source, "attention_mask": (source != PAD).long(), "decoder_input_ids": target,
                "labels": labels,
            }  # fmt: skip


class Clock(TrainerCallback):
    def __init__(self, warmup: int) -> None:
        self.warmup, self.start, self.seconds = warmup, 0.0, 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.warmup:
            self.start = time.perf_counter()
        self.seconds = time.perf_counter() - self.start


def main() -> None:
    folder, shape = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    if shape["threads"]:
        torch.set_num_threads(shape["threads"])
    torch.manual_seed(shape["seed"])
    clock = Clock(shape["warmup"])
    with tempfile.TemporaryDirectory() as place:
        arguments = TrainingArguments(
            place, max_steps=shape["warmup"] + shape["updates"], per_device_train_batch_size=1, learning_rate=1e-3,
            optim="adamw_torch", adam_beta2=0.98, adam_epsilon=1e-9, max_grad_norm=0.0, lr_scheduler_type="constant",
            label_smoothing_factor=shape["label_smoothing"], report_to=[], save_strategy="no", logging_strategy="no",
            use_cpu=shape["device"] == "cpu", bf16=shape["precision"] == "bf16", disable_tqdm=True,
            seed=shape["seed"],
        )  # fmt: skip
        trainer = Trainer(
            marian(shape), arguments, data_collator=lambda items: items[0], train_dataset=Batches(folder, shape),
            callbacks=[clock],
        )  # fmt: skip
        trainer.train()
    stream = batches(folder, shape["batch_tokens"], shape["seed"])
    counts = [int((next(stream)[2] != IGNORED).sum()) for _ in range(shape["warmup"] + shape["updates"])]
    print(json.dumps({"target_tokens": sum(counts[shape["warmup"] :]), "seconds": clock.seconds}))


if __name__ == "__main__":
    main()
