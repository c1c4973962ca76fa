"""A tiny training with everything switched on, for the fault tests: corpus and configuration are written here."""

from __future__ import annotations

import random
from pathlib import Path

STEPS = 60
TRAINING = f"""
seed = 3
[data]
train = ["train"]
valid = "valid"
source = "xx"
target = "en"
vocabulary = 300
subword_dropout = 0.1
[model]
width = 16
encoder_layers = 1
decoder_layers = 1
heads = 2
feedforward = 32
dropout = 0.1
[training]
steps = {STEPS}
batch_tokens = 200
accumulate = 2
learning_rate = 0.02
warmup_steps = 10
validate_every = 7
validate_sentences = 8
save_every = 10
keep_checkpoints = 2
keep = 2
average = 2
ema = 0.5
optimizer = "muon"  # Adam is in it, for tables and vectors
log_every = 1
threads = 1
[decoding]
beam = 2
max_extra = 5
"""


def write(folder: Path) -> None:
    """``config.toml`` with the corpora that it names beside it."""
    generator = random.Random(5)
    words = ["".join(generator.choices("abcdefghik", k=generator.randint(1, 4))) for _ in range(12)]
    # One target word in three is another one: easy enough for BLEU to rise within 60 updates.
    meaning = {word: "ab"[number % 3 == 0] for number, word in enumerate(words)}
    for name, count in (("train", 250), ("valid", 12)):
        sentences = [generator.choices(words, k=generator.randint(1, 6)) for _ in range(count)]
        (folder / f"{name}.xx").write_text("".join(" ".join(line) + "\n" for line in sentences))
        target = (" ".join(meaning[word] for word in line) for line in sentences)
        (folder / f"{name}.en").write_text("".join(line + "\n" for line in target))
    (folder / "config.toml").write_text(TRAINING)
