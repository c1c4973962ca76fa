"""The default training of a corpus: model, vocabulary, optimiser and time, by task and size."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

Tables = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Size:
    """The model for corpora of fewer than ``examples``; ``pieces`` counts subwords beside bytes and characters.

    Examples are pairs or texts; of a text that is learnt as a stream they are characters. 0 pieces: characters alone.
    """

    examples: float
    pieces: int
    model: dict[str, Any]


# Small corpora overfit: narrow models and much dropout. Pre-norm needs no long warm-up.
TRANSLATION = (
    Size(5_000, 1_000, {"preset": "tiny", "encoder_layers": 2, "decoder_layers": 2, "dropout": 0.3, "order": "pre"}),
    Size(200_000, 5_000, {"preset": "tiny", "dropout": 0.3, "order": "pre"}),
    Size(2_000_000, 12_000, {"preset": "small", "dropout": 0.2, "order": "pre"}),
    Size(float("inf"), 28_000, {"preset": "base", "order": "pre"}),
)
LANGUAGE_MODEL = (
    Size(300_000, 0, {"preset": "tiny", "dropout": 0.2}),
    Size(5_000_000, 0, {"preset": "small", "dropout": 0.2}),
    Size(100_000_000, 8_000, {"preset": "small", "layers": 6, "dropout": 0.1}),
    Size(float("inf"), 28_000, {"preset": "base", "dropout": 0.1}),
)
MASKED = (
    Size(5_000_000, 3_000, {"preset": "tiny", "layers": 4, "dropout": 0.1, "order": "pre"}),
    Size(100_000_000, 8_000, {"preset": "small", "dropout": 0.1, "order": "pre"}),
    Size(float("inf"), 28_000, {"preset": "base", "order": "pre"}),
)
CLASSIFICATION = (
    Size(20_000, 3_000, {"preset": "tiny", "dropout": 0.4, "embedding_dropout": 0.4, "order": "pre"}),
    Size(200_000, 8_000, {"preset": "tiny", "layers": 4, "dropout": 0.3, "order": "pre"}),
    Size(float("inf"), 16_000, {"preset": "small", "dropout": 0.2, "order": "pre"}),
)
MINUTES = 30.0
BLOCK = 256  # tokens of a block of a language model
EPOCHS = 20  # over labelled texts; patience ends most runs earlier


def recipe(examples: int, characters: Counter[str], *, task: str = "translation", minutes: float = MINUTES) -> Tables:
    """The tables of a configuration for a corpus of so many pairs, texts or characters, with these characters."""
    if task == "translation":
        return _tables("transformer", _size(TRANSLATION, examples), characters, _paced(minutes))
    if task == "classification":
        return _classification(examples, characters, minutes)
    return _stream(task, characters, minutes)


def _size(sizes: tuple[Size, ...], examples: int) -> Size:
    return next(size for size in sizes if examples < size.examples)


def _tables(architecture: str, size: Size, characters: Counter[str], training: dict[str, Any]) -> Tables:
    """The tables of a model: the vocabulary has bytes, the commonest characters and the size's pieces."""
    # 4 special tokens, 256 bytes, the corpus's characters and pieces, rounded up to hundreds.
    kept = _covering(characters, 0.9995) if size.pieces else len(characters)
    vocabulary = -(-(260 + kept + size.pieces) // 100) * 100
    data = {"vocabulary": vocabulary} if size.pieces else {"tokenizer": "characters", "vocabulary": vocabulary}
    return {"data": data, "model": {"architecture": architecture, **size.model}, "training": training}


def _encoder(size: Size, characters: Counter[str], training: dict[str, Any]) -> Tables:
    """An encoder without dropout on attention weights, which is slow on a CPU."""
    tables = _tables("encoder", size, characters, training)
    tables["model"]["attention_dropout"] = 0.0
    return tables


def _paced(minutes: float) -> dict[str, Any]:
    """How often a run of so many minutes is validated and saved."""
    return {
        "minutes": minutes,
        "warmup_steps": 400 if minutes <= 10 else 1000,
        "validate_every": 100 if minutes <= 10 else 250,
        "save_every": 100 if minutes <= 10 else 250,
        "patience": 10,
    }


def _stream(task: str, characters: Counter[str], minutes: float) -> Tables:
    """A text that is learnt as a stream, in blocks: GPT-2's optimiser, at a rate for small models."""
    masked = task == "masked"
    size = _size(MASKED if masked else LANGUAGE_MODEL, characters.total())
    training = {
        **_paced(minutes),
        "warmup_steps": 100,
        "learning_rate": 1e-3 if size.examples < float("inf") else 5e-4,
        "beta2": 0.99,
        "eps": 1e-8,
        "weight_decay": 0.1,
        "clip_norm": 1.0,
        "label_smoothing": 0.0,
    }
    tables = _encoder(size, characters, training) if masked else _tables("decoder", size, characters, training)
    return {**tables, "data": {**tables["data"], "max_length": BLOCK}}


def _classification(texts: int, characters: Counter[str], minutes: float) -> Tables:
    """Labelled texts from scratch: few epochs, whose rate falls to nothing at their end."""
    batch_tokens = 2048
    # A subword has about three characters of an alphabet, and less of others; padding makes up for the rest.
    updates = EPOCHS * characters.total() / 3 / batch_tokens
    steps = int(min(max(updates, 400), 20_000))
    every = max(steps // EPOCHS, 20)
    training = {
        "minutes": minutes,
        "steps": steps,
        "batch_tokens": batch_tokens,
        "learning_rate": 1e-3,
        "schedule": "cosine",
        "warmup_steps": min(100, steps // 10),
        "eps": 1e-8,
        "weight_decay": 0.01,
        "clip_norm": 1.0,
        "label_smoothing": 0.1,
        "validate_every": every,
        "save_every": every,
        "patience": 6,
    }
    return _encoder(_size(CLASSIFICATION, texts), characters, training)


def _covering(characters: Counter[str], coverage: float) -> int:
    """The number of commonest characters that make up the share ``coverage`` of the text."""
    need = coverage * characters.total()
    count, have = 0, 0
    for _, times in characters.most_common():
        if have >= need:
            break
        count, have = count + 1, have + times
    return count
