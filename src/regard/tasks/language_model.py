"""Language models: a text is predicted token by token. Documents stand one after another, cut into blocks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regard import files
from regard.accel.ways import switched_on
from regard.config import Config, DataConfig, DecodingConfig, TrainingConfig
from regard.data.batch import IGNORED, Batch
from regard.data.columns import Column
from regard.data.plan import Indices
from regard.data.prepare import Prepared
from regard.data.random_streams import stream_key
from regard.data.shards import Corpus
from regard.decoding.inputs import padded
from regard.directory import Loaded
from regard.errors import RegardError
from regard.machine.memory import other_sizes
from regard.models.registry import Architecture
from regard.pipelines.generator import Generator
from regard.tasks.measuring import HeldOut, evaluating, spread
from regard.tasks.objectives import CrossEntropy, Objective, token_objective
from regard.tasks.task import Card, Stop
from regard.text.settings import TextSettings
from regard.text.specials import EOS

PROMPT, SAMPLE = 16, 48  # tokens of a sample's prompt, and of its continuation


class LanguageModel:
    """The task of predicting a text; see ``regard.tasks.task.Task``."""

    name = "language_model"
    metrics = ("loss",)
    specials: tuple[str, ...] = ()
    figures: Mapping[str, tuple[str, str]] = {
        "loss": ("validation loss", ".4f"),
        "perplexity": ("perplexity", ".2f"),
    }

    def check(self, config: Config, architecture: Architecture) -> None:
        check_stream(config)
        if architecture.source or not architecture.generates:
            raise RegardError(
                "task = 'language_model': this architecture does not continue a text: expected --architecture decoder"
            )

    def columns(self, data: DataConfig) -> tuple[Column, ...]:
        return (Column("text", "text", data.text),)

    def settings(self, config: Config, prepared: Prepared) -> TextSettings:
        # A document's end mark is the start mark of the next one, as in GPT-2; a text of one document has neither.
        end = prepared.tokenizer.id_of(EOS)
        mark = (end,) if end in prepared.train.stream[-1:] else ()
        return TextSettings(start=mark, ends=mark, source_after=(), normalize=config.data.normalize)

    def max_length(self, config: Config, prepared: Prepared) -> int:
        return config.data.max_length

    def options(self, options: Any, labels: tuple[str, ...]) -> Any:
        return options

    def examples(self, config: Config, prepared: Prepared, settings: TextSettings) -> Blocks:
        return Blocks(prepared.train, config.data.max_length, config.seed)

    def objective(self, training: TrainingConfig) -> Objective:
        return token_objective(training)

    def validation(self, config: Config, corpus: Corpus, loaded: Loaded, stop: Stop = lambda: False) -> Continuations:
        return Continuations(config, corpus, loaded, stop)

    def card(self, config: Config, loaded: Loaded) -> Card:
        return Card(
            title="Language model",
            command="regard generate {run} --prompt TEXT",
            examples="blocks",
            note=f"Loss: nats a token, in blocks of {config.data.max_length} tokens, without label smoothing.",
        )


def check_stream(config: Config, marks: int = 0) -> None:
    """RegardError for data settings that a text in blocks of ``data.max_length`` and ``marks`` tokens does not have."""
    block = config.data.max_length + marks
    if config.training.batch_tokens < block:
        beside = f" and {marks} marks" if marks else ""
        raise RegardError(
            f"training.batch_tokens = {config.training.batch_tokens} is less than a block of data.max_length = "
            f"{config.data.max_length}{beside}: raise it, or lower data.max_length"
        )
    if config.data.shares:
        raise RegardError(f"data.shares is for corpora of single examples: task = '{config.task}' has none")
    if config.data.subword_dropout:
        raise RegardError(f"data.subword_dropout is for corpora of single examples: task = '{config.task}' has none")


class Blocks:
    """Blocks of ``size`` + 1 tokens of a stream, each begun with the last token of the one before: T inputs, T labels.

    In training the first block begins at a place that each epoch draws anew, so that blocks are cut elsewhere; without
    a ``seed`` it begins at 0, and a shorter last block is kept: every token but the first is predicted once.
    """

    corpus_of = None

    def __init__(self, corpus: Corpus, size: int, seed: int | None = None) -> None:
        self.corpus, self.size, self.seed = corpus, size, seed
        labels = len(corpus.stream) - 1
        if labels < 1:
            tokens = f"{labels + 1} token{'s' * (labels != 0)}"
            raise RegardError(f"{', '.join(corpus.files)}: a text of {tokens}: expected two or more")
        # How many places there are where the first block may begin.
        self.offsets = min(size, max(1, labels - size + 1)) if seed is not None else 1
        count = max(1, (labels - self.offsets + 1) // size) if seed is not None else -(-labels // size)
        self.targets = np.minimum(size, labels - np.arange(count, dtype=np.int64) * size)
        self.sides: tuple[NDArray[np.int64], ...] = (self.targets,)

    def first(self, index: int, epoch: int) -> int:
        """Where a block begins in the stream."""
        offset = 0 if self.seed is None else stream_key(self.seed, "blocks", epoch) % self.offsets
        return offset + int(index) * self.size

    def batch(self, indices: Indices, epoch: int) -> Batch:
        rows = [self.tokens(int(index), epoch) for index in indices]
        inputs = padded([row[:-1] for row in rows], 0, "cpu")
        labels = padded([row[1:] for row in rows], IGNORED, "cpu").ids
        return Batch(None, inputs, labels, int(inputs.lengths.sum()))

    def tokens(self, index: int, epoch: int) -> NDArray[np.integer]:
        """The T + 1 tokens of a block."""
        first = self.first(index, epoch)
        return self.corpus.stream[first : first + int(self.targets[index]) + 1]

    def where(self, index: int, epoch: int) -> str:
        return self.corpus.where_in_stream(self.first(index, epoch))


class Continuations:
    """A validation text: its loss in blocks, and samples that continue some of its places."""

    remark = ""

    def __init__(self, config: Config, corpus: Corpus, loaded: Loaded, stop: Stop) -> None:
        self.config, self.loaded, self.model = config, loaded, loaded.model
        blocks = Blocks(corpus, config.data.max_length)
        self.count = min(config.training.validate_sentences or len(blocks.targets), len(blocks.targets))
        self.held_out = HeldOut(config, blocks, stop, np.arange(self.count))
        places = [blocks.tokens(index, 0) for index in spread(min(config.training.samples, self.count), self.count)]
        self.prompts = [loaded.text.tokenizer.decode(tokens[:PROMPT].tolist()) for tokens in places]

    def measure(self, decoding: DecodingConfig | None = None) -> dict[str, Any]:
        """The loss a token without smoothing, the perplexity, and samples drawn with temperature 0.8."""
        with other_sizes(), evaluating(self.model), switched_on():
            files.point("validate:begin")
            loss = self.held_out.loss(self.model, CrossEntropy())
            files.point("validate:loss")
            values: dict[str, Any] = {"loss": loss, "perplexity": math.exp(min(loss, 700.0))}
            if self.prompts and decoding is None:
                found = Generator(self.loaded).generate(self.prompts, max_tokens=SAMPLE, temperature=0.8, seed=1)
                values["samples"] = [
                    {"source": prompt, "hypothesis": one.text} for prompt, one in zip(self.prompts, found, strict=True)
                ]
        return values

    def rehearse(self) -> None:
        self.held_out.rehearse(self.model, CrossEntropy())
