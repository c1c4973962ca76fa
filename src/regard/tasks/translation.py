"""Translation: pairs of texts; the target is predicted word by word from the source. Validation measures BLEU."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regard import files
from regard.accel.ways import switched_on
from regard.config import Config, DataConfig, DecodingConfig, TrainingConfig
from regard.data.batch import Batch, collate
from regard.data.checks import has_text
from regard.data.columns import Column
from regard.data.plan import Indices
from regard.data.prepare import Prepared, learnt_length
from regard.data.random_streams import stream_key
from regard.data.shards import Corpus
from regard.directory import Loaded
from regard.errors import RegardError
from regard.machine.memory import other_sizes
from regard.models.registry import Architecture
from regard.pipelines.translator import Translator
from regard.tasks.measuring import HeldOut, evaluating, raise_if_stopped, spread
from regard.tasks.objectives import CrossEntropy, Objective, token_objective
from regard.tasks.task import Card, Stop
from regard.text.dropout import SubwordDropout
from regard.text.marks import source_marks, target_end, target_start, unscored
from regard.text.settings import TextSettings

CHUNK = 250  # sentences translated between two calls of ``stop``


class Translation:
    """The task of translating; see ``regard.tasks.task.Task``."""

    name = "translation"
    metrics = ("bleu", "loss")
    specials: tuple[str, ...] = ()
    figures: Mapping[str, tuple[str, str]] = {
        "loss": ("validation loss", ".3f"),
        "perplexity": ("perplexity", ".2f"),
        "bleu": ("BLEU", ".2f"),
    }

    def check(self, config: Config, architecture: Architecture) -> None:
        for side in ("source", "target"):
            if not getattr(config.data, side):
                raise RegardError(f"data.{side} is missing: the language code of the {side}, such as zh")
        if not architecture.generates:
            raise RegardError("task = 'translation': this architecture generates no text: expected transformer or rnn")
        if not architecture.source and config.training.metric != "loss":
            raise RegardError(
                "task = 'translation': this architecture has no source to translate, so that BLEU cannot be measured: "
                "expected transformer or rnn; for a language model: --task language_model"
            )

    def columns(self, data: DataConfig) -> tuple[Column, ...]:
        return (
            Column("source", key=data.source_key),
            Column("target", key=data.target_key, tokenizer=1),
        )

    def settings(self, config: Config, prepared: Prepared) -> TextSettings:
        settings = TextSettings(
            source=config.data.source,
            target=config.data.target,
            normalize=config.data.normalize,
        )
        # No corpus holds these tokens; a model early in training might still produce them.
        return replace(settings, suppressed=(settings.pad, settings.unk, *settings.start))

    def max_length(self, config: Config, prepared: Prepared) -> int:
        return learnt_length(prepared.train)

    def options(self, options: Any, labels: tuple[str, ...]) -> Any:
        return options

    def examples(self, config: Config, prepared: Prepared, settings: TextSettings) -> Pairs:
        dropouts: list[SubwordDropout] = []
        if config.data.subword_dropout:
            # A stream for each side: with one, a name on both sides would always be cut alike.
            dropouts = [
                SubwordDropout(tokenizer, config.data.subword_dropout, stream_key(config.seed, f"subwords {side}"))
                for side, tokenizer in zip(
                    ("source", "target"), (prepared.tokenizer, prepared.target_tokenizer), strict=True
                )
            ]
        return Pairs(prepared.train, settings, dropouts)

    def objective(self, training: TrainingConfig) -> Objective:
        return token_objective(training)

    def validation(self, config: Config, corpus: Corpus, loaded: Loaded, stop: Stop = lambda: False) -> Translations:
        return Translations(config, corpus, loaded, stop)

    def card(self, config: Config, loaded: Loaded) -> Card:
        data, decoding = config.data, config.decoding
        return Card(
            title=f"{data.source} → {data.target}",
            command=f"regard translate {{run}} input.{data.source}",
            examples="sentences",
            note=f"BLEU: sacreBLEU `{{bleu_signature}}`, beam {decoding.beam}, length penalty "
            f"{decoding.length_penalty}. Loss: nats a subword, without label smoothing.",
        )


class Pairs:
    """Pairs of sentences as examples; subword dropout cuts their words anew for each epoch."""

    def __init__(self, corpus: Corpus, settings: TextSettings, dropouts: Sequence[SubwordDropout] = ()) -> None:
        self.corpus, self.settings, self.dropouts = corpus, settings, dropouts
        source, target = (lengths.astype(np.int64) for lengths in corpus.lengths)
        start, end = len(target_start(settings)), len(target_end(settings))
        self.sides = (source + sum(map(len, source_marks(settings))), target + start + end - 1)
        self.targets = self.sides[1] - unscored(start)
        self.corpus_of = corpus.corpus_of
        self.longest = max(int(lengths.max(initial=0)) for lengths in corpus.lengths)

    def batch(self, indices: Indices, epoch: int) -> Batch:
        sources, targets = ([self._side(side, int(i), epoch) for i in indices] for side in (0, 1))
        return collate(sources, targets, self.settings)

    def where(self, index: int, epoch: int) -> str:
        return self.corpus.where(index)

    def _side(self, side: int, index: int, epoch: int) -> Sequence[int] | NDArray[np.integer]:
        ids = self.corpus.ids(side, index)
        if not self.dropouts:
            return ids
        cut = self.dropouts[side].encode(self.corpus.text(side, index), epoch, index)
        # Keep the usual subwords if dropout gives more than any text has: the pre-flight tried no longer text.
        return cut if len(cut) <= self.longest else ids


class Translations:
    """A validation corpus of pairs: its loss, and its translations with their BLEU."""

    def __init__(self, config: Config, corpus: Corpus, loaded: Loaded, stop: Stop) -> None:
        self.config, self.loaded, self.stop = config, loaded, stop
        self.model = loaded.model
        count = min(config.training.validate_sentences or len(corpus), len(corpus))
        sources, references = ([corpus.text(side, index) for index in range(count)] for side in (0, 1))
        kept = [index for index in range(count) if has_text(references[index]) and self._reads(sources[index])]
        if not kept:
            raise RegardError(f"data.valid: none of its first {count:,} pairs has text on both sides")
        self.count, self.remark = len(kept), _left_out(corpus, kept, count)
        self.sources, self.references = ([side[index] for index in kept] for side in (sources, references))
        numbers = np.array(kept, dtype=np.int64)
        source, target = corpus.lengths
        self.by_length = np.argsort(source[numbers], kind="stable")
        # Pairs that training would leave out have no part in the loss; they are translated all the same.
        longest = min(config.data.max_length, config.training.batch_tokens - 1)
        counted = numbers[np.maximum(source, target)[numbers] <= longest]
        if not len(counted):
            raise RegardError(
                f"data.valid: none of its {len(kept):,} pairs is short enough to have a loss: at most {longest} "
                "subwords a side (data.max_length, training.batch_tokens)"
            )
        self.held_out = HeldOut(config, Pairs(corpus, loaded.text.settings), stop, counted)

    def _reads(self, source: str) -> bool:
        return not self.model.has_source or has_text(source)

    def measure(self, decoding: DecodingConfig | None = None) -> dict[str, Any]:
        """Loss a token (without smoothing), perplexity, and by greedy search (or ``decoding``) BLEU and samples."""
        with other_sizes(), evaluating(self.model), switched_on():
            files.point("validate:begin")
            loss = self.held_out.loss(self.model, CrossEntropy())
            files.point("validate:loss")
            values: dict[str, Any] = {"loss": loss, "perplexity": math.exp(min(loss, 700.0))}
            wanted = self.config.training.metric != "loss" or decoding is not None
            if wanted and self.model.has_source:
                from regard.evaluation import corpus_scores  # imports sacreBLEU

                # Greedy search is the quickest, and enough to rank the steps of one run.
                greedy = replace(self.config.decoding, beam=1, n_best=1, no_repeat=False)
                texts = self.translate(decoding or greedy)
                files.point("validate:translated")
                scores = corpus_scores(texts, self.references, self.config.data.target)
                values |= {"bleu": scores.bleu, "bleu_signature": scores.bleu_signature}
                values["samples"] = self._samples(texts)
        return values

    def translate(self, decoding: DecodingConfig) -> list[str]:
        """The translation of every source, as users get it: long text in parts, repetitions decoded again."""
        translator = Translator(self.loaded, decoding)
        texts = [""] * len(self.sources)
        # Chunks of similar length, small enough that Ctrl-C is soon obeyed.
        for first in range(0, len(texts), CHUNK):
            raise_if_stopped(self.stop)
            chunk = self.by_length[first : first + CHUNK]
            for index, found in zip(chunk, translator.translate([self.sources[i] for i in chunk]), strict=True):
                texts[index] = found.text
        return texts

    def rehearse(self) -> None:
        self.held_out.rehearse(self.model, CrossEntropy())

    def _samples(self, texts: Sequence[str]) -> list[dict[str, str]]:
        """Sentences spread evenly over the corpus, the same at every validation."""
        return [
            {"source": self.sources[index], "hypothesis": texts[index], "reference": self.references[index]}
            for index in spread(min(self.config.training.samples, len(texts)), len(texts))
        ]


def _left_out(corpus: Corpus, kept: Sequence[int], count: int) -> str:
    """A line on the pairs that can't be scored; "" where there are none."""
    missing = sorted(set(range(count)) - set(kept))
    if not missing:
        return ""
    pairs = "pair" if len(missing) == 1 else "pairs"
    first = corpus.where(missing[0])
    return f"{len(missing):,} {pairs} of the validation corpus without text on a side: not scored (first: {first})"
