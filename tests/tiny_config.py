"""The configuration of a run that takes a second: the target is the source, translated word by word."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from regard.config import Config, read_config

WORDS = {
    "eins": "one", "zwei": "two", "drei": "three", "vier": "four", "fünf": "five",
    "rot": "red", "blau": "blue", "grün": "green", "Haus": "house", "Baum": "tree",
}  # fmt: skip

MakeConfig = Callable[..., Config]


def write_corpus(folder: Path, name: str, count: int, seed: int) -> str:
    """``count`` pairs of 1 to 8 words; returns the prefix."""
    draw = random.Random(seed)
    rows = [[draw.choice(list(WORDS)) for _ in range(draw.randint(1, 8))] for _ in range(count)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.de").write_text("".join(" ".join(row) + "\n" for row in rows))
    (folder / f"{name}.en").write_text("".join(" ".join(WORDS[word] for word in row) + "\n" for row in rows))
    return str(folder / name)


@pytest.fixture
def tiny(tmp_path: Path) -> MakeConfig:
    """``tiny(**{"training.steps": 20})`` is a configuration of a run that learns from 120 pairs."""

    def make(**changes: Any) -> Config:
        corpus = tmp_path / "corpus"
        if not corpus.exists():
            write_corpus(corpus, "train", 120, 1)
            write_corpus(corpus, "valid", 12, 2)
        settings: dict[str, Any] = {
            "data.train": [str(corpus / "train")],
            "data.valid": str(corpus / "valid"),
            "data.source": "de",
            "data.target": "en",
            "data.vocabulary": 320,
            "data.cache": str(tmp_path / "cache"),
            "model.preset": "tiny",
            "model.width": 16,
            "model.heads": 2,
            "model.feedforward": 32,
            "model.encoder_layers": 1,
            "model.decoder_layers": 1,
            "model.dropout": 0.1,
            "training.steps": 12,
            "training.batch_tokens": 200,
            "training.learning_rate": 0.01,
            "training.warmup_steps": 5,
            "training.validate_every": 5,
            "training.save_every": 4,
            "training.log_every": 3,
            "training.average": 2,
            "training.keep": 2,
            "training.samples": 1,
            "decoding.beam": 2,
            "decoding.max_extra": 4,
            **changes,
        }
        tables: dict[str, Any] = {}
        for key, value in settings.items():
            table, dot, name = key.partition(".")
            if dot:
                tables.setdefault(table, {})[name] = value
            else:
                tables[table] = value
        return read_config(None, **tables)

    return make
