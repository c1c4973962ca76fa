"""Classification of texts, or of pairs of texts: one label each. Validation measures the share of right labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from regard import files
from regard.accel.ways import switched_on
from regard.config import Config, DataConfig, DecodingConfig, TrainingConfig
from regard.data.batch import Batch
from regard.data.columns import Column
from regard.data.plan import Indices
from regard.data.prepare import Prepared
from regard.data.shards import Corpus
from regard.directory import Loaded
from regard.errors import RegardError
from regard.evaluation.labels import label_scores
from regard.machine.memory import other_sizes
from regard.models.heads import TextLabels
from regard.models.registry import Architecture
from regard.pipelines.rows import row, tokens_of
from regard.tasks.heads import with_head
from regard.tasks.measuring import HeldOut, evaluating, spread
from regard.tasks.objectives import LabelCrossEntropy, Objective, label_model
from regard.tasks.task import Card, Stop
from regard.text.settings import TextSettings
from regard.text.specials import BOS, EOS


class Classification:
    """The task of labelling texts; see ``regard.tasks.task.Task``."""

    name = "classification"
    metrics = ("accuracy", "macro_f1", "loss")
    specials: tuple[str, ...] = ()
    figures: Mapping[str, tuple[str, str]] = {
        "loss": ("validation loss", ".4f"),
        "accuracy": ("accuracy", ".2%"),
        "macro_f1": ("macro F1", ".4f"),
    }

    def check(self, config: Config, architecture: Architecture) -> None:
        if not architecture.labels:
            raise RegardError("task = 'classification': this architecture gives no labels: expected encoder")
        for key, value in (
            ("training.rdrop", config.training.rdrop),
            ("data.subword_dropout", config.data.subword_dropout),
        ):
            if value:
                raise RegardError(f"{key} = {value}: expected 0 for task = 'classification'")

    def columns(self, data: DataConfig) -> tuple[Column, ...]:
        texts = [Column("text", "text", data.text)]
        if data.pair:
            texts.append(Column("pair", "text", data.pair))
        return (*texts, Column("label", "label", data.label))

    def settings(self, config: Config, prepared: Prepared) -> TextSettings:
        begin, end = (prepared.tokenizer.id_of(name) for name in (BOS, EOS))
        return TextSettings(
            start=(),
            ends=(),
            source_before=(begin,),
            source_after=(end,),
            pair_between=(end,),
            segments=bool(config.data.pair) and config.model.get("segments", 2) > 1,  # of fewer none is a second text's
            normalize=config.data.normalize,
        )

    def max_length(self, config: Config, prepared: Prepared) -> int:
        return config.data.max_length

    def options(self, options: Any, labels: tuple[str, ...]) -> Any:
        return with_head(options, TextLabels(pooling="mean"), labels, self.name)

    def examples(self, config: Config, prepared: Prepared, settings: TextSettings) -> Texts:
        return Texts(prepared.train, settings)

    def objective(self, training: TrainingConfig) -> Objective:
        return LabelCrossEntropy(training.label_smoothing)

    def validation(self, config: Config, corpus: Corpus, loaded: Loaded, stop: Stop = lambda: False) -> LabelledTexts:
        return LabelledTexts(config, corpus, loaded, stop)

    def card(self, config: Config, loaded: Loaded) -> Card:
        return Card(
            title=f"Classifier: {', '.join(loaded.options.labels[:6])}",
            command=f"regard classify {{run}} {'first.txt --pair second.txt' if config.data.pair else 'input.txt'}",
            examples="pairs of texts" if config.data.pair else "texts",
            note="Accuracy: the share of right labels. Macro F1: the mean over the labels. Loss: nats a text.",
        )


class Texts:
    """Texts, or pairs of them, with a label each."""

    def __init__(self, corpus: Corpus, settings: TextSettings) -> None:
        self.corpus, self.settings = corpus, settings
        *texts, _ = corpus.lengths
        marks = len(settings.source_before) + len(settings.source_after) + len(settings.pair_between) * (len(texts) - 1)
        self.texts = len(texts)
        lengths = np.stack(texts).sum(0, dtype=np.int64) + marks
        self.sides: tuple[NDArray[np.int64], ...] = (lengths,)
        self.targets = np.ones(len(corpus), dtype=np.int64)
        self.corpus_of = corpus.corpus_of

    def batch(self, indices: Indices, epoch: int) -> Batch:
        numbers = indices.tolist()
        texts = [[self.corpus.ids(column, number).tolist() for column in range(self.texts)] for number in numbers]
        rows = [row(self.settings, *ids) for ids in texts]
        labels = torch.tensor([int(self.corpus.ids(self.texts, number)[0]) for number in numbers])
        return Batch(None, tokens_of(rows, self.settings, torch.device("cpu")), labels, len(rows))

    def where(self, index: int, epoch: int) -> str:
        return self.corpus.where(index)


class LabelledTexts:
    """A validation corpus of labelled texts."""

    remark = ""

    def __init__(self, config: Config, corpus: Corpus, loaded: Loaded, stop: Stop) -> None:
        self.config, self.corpus, self.loaded, self.model = config, corpus, loaded, loaded.model
        self.examples = Texts(corpus, loaded.text.settings)
        self.count = min(config.training.validate_sentences or len(corpus), len(corpus))
        self.held_out = HeldOut(config, self.examples, stop, np.arange(self.count))

    def measure(self, decoding: DecodingConfig | None = None) -> dict[str, Any]:
        """The loss a text without smoothing, accuracy, macro F1, and samples."""
        model = label_model(self.model)
        found: dict[int, tuple[int, int]] = {}  # number of an example → its label, the likeliest one

        def nll_of(numbers: NDArray[np.int64], batch: Batch) -> torch.Tensor:
            scores = model.label_scores(batch.target)
            pairs = zip(batch.labels.tolist(), scores.argmax(-1).tolist(), strict=True)
            found.update(zip(numbers.tolist(), pairs, strict=True))
            return LabelCrossEntropy().of(scores, batch).nll

        with other_sizes(), evaluating(self.model), switched_on():
            files.point("validate:begin")
            loss = self.held_out.mean(self.model, nll_of)
            files.point("validate:loss")
        names = self.loaded.options.labels
        true, chosen = zip(*found.values(), strict=True)
        scores = label_scores(true, chosen, names)
        values: dict[str, Any] = {"loss": loss, "accuracy": scores.accuracy, "macro_f1": scores.macro_f1}
        shown = [sorted(found)[place] for place in spread(min(self.config.training.samples, len(found)), len(found))]
        values["samples"] = [
            {
                "source": " / ".join(self.corpus.text(column, number) for column in range(self.examples.texts)),
                "hypothesis": names[found[number][1]],
                "reference": names[found[number][0]],
            }
            for number in shown
        ]
        return values

    def rehearse(self) -> None:
        self.held_out.rehearse(self.model, LabelCrossEntropy())
