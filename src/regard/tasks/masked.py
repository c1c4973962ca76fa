"""Masked words (BERT, Devlin et al. 2018, section 3.1): some tokens are hidden, and predicted from both sides."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
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
from regard.models.heads import MaskedWords
from regard.models.registry import Architecture
from regard.nn.sequences import Output
from regard.tasks.heads import with_head
from regard.tasks.language_model import Blocks, check_stream
from regard.tasks.measuring import HeldOut, evaluating, spread
from regard.tasks.objectives import CrossEntropy, Objective, forward, token_objective
from regard.tasks.task import Card, Stop
from regard.text.marks import source_ids
from regard.text.settings import TextSettings
from regard.text.specials import BOS, EOS, MASK
from regard.text.words import SPACE

SHARE = 0.15  # of the tokens that are predicted; of these
HIDDEN, OTHER = 0.8, 0.1  # become the mask, become a random token; the rest stay as they are
WINDOW, AHEAD = 24, 8  # tokens of a sample, and of them those before its first mask


class Masked:
    """The task of predicting masked words; see ``regard.tasks.task.Task``."""

    name = "masked"
    metrics = ("loss", "accuracy")
    specials = (MASK,)
    figures: Mapping[str, tuple[str, str]] = {
        "loss": ("validation loss", ".4f"),
        "perplexity": ("perplexity", ".2f"),
        "accuracy": ("accuracy", ".2%"),
    }

    def check(self, config: Config, architecture: Architecture) -> None:
        check_stream(config, marks=0 if config.training.init else 2)  # an initial model has marks of its own
        if not architecture.labels:
            raise RegardError("task = 'masked': this architecture predicts no masked words: expected encoder")

    def columns(self, data: DataConfig) -> tuple[Column, ...]:
        return (Column("text", "text", data.text),)

    def settings(self, config: Config, prepared: Prepared) -> TextSettings:
        begin, end, mask = (prepared.tokenizer.id_of(name) for name in (BOS, EOS, MASK))
        return TextSettings(
            start=(),
            ends=(),
            source_before=(begin,),
            source_after=(end,),
            pair_between=(end,),
            mask=mask,
            normalize=config.data.normalize,
        )

    def max_length(self, config: Config, prepared: Prepared) -> int:
        return config.data.max_length

    def options(self, options: Any, labels: tuple[str, ...]) -> Any:
        return with_head(options, MaskedWords(), (), self.name)

    def examples(self, config: Config, prepared: Prepared, settings: TextSettings) -> MaskedBlocks:
        return MaskedBlocks(prepared.train, settings, prepared.tokenizer.size, config.seed, training=True)

    def objective(self, training: TrainingConfig) -> Objective:
        return token_objective(training)

    def validation(self, config: Config, corpus: Corpus, loaded: Loaded, stop: Stop = lambda: False) -> MaskedText:
        return MaskedText(config, corpus, loaded, stop)

    def card(self, config: Config, loaded: Loaded) -> Card:
        return Card(
            title="Masked words",
            command='regard fill {run} --text "A text with a [MASK]."',
            examples="blocks",
            note=f"{SHARE:.0%} of the tokens are predicted. Loss: nats such a token, without label smoothing.",
        )


class MaskedBlocks:
    """Blocks of a text between their marks, some of whose tokens are hidden; each epoch hides others in training."""

    corpus_of = None

    def __init__(
        self, corpus: Corpus, settings: TextSettings, vocabulary: int, seed: int, training: bool = False
    ) -> None:
        if settings.mask is None:
            raise RegardError("task = 'masked': the tokenizer of the model to start from has no mask token")
        self.settings, self.mask, self.vocabulary, self.seed = settings, settings.mask, vocabulary, seed
        # The last token of the block before is not part of a block here: all tokens are inputs.
        self.blocks = Blocks(corpus, settings.max_length, seed if training else None)
        lengths = self.blocks.targets
        self.targets = np.maximum(1, np.round(SHARE * lengths)).astype(np.int64)
        marks = len(settings.source_before) + len(settings.source_after)
        self.sides: tuple[NDArray[np.int64], ...] = (lengths + marks,)

    def batch(self, indices: Indices, epoch: int) -> Batch:
        inputs, labels = zip(*(self._hidden(int(index), epoch) for index in indices), strict=True)
        target = padded(inputs, self.settings.pad, "cpu")
        return Batch(None, target, padded(labels, IGNORED, "cpu").ids, int(self.targets[indices].sum()))

    def where(self, index: int, epoch: int) -> str:
        return self.blocks.where(index, epoch)

    def _hidden(self, index: int, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """A block with its marks, and its labels: the hidden tokens, else ``IGNORED``."""
        tokens = self.blocks.tokens(index, epoch)[1:].astype(np.int64)
        random = np.random.default_rng(stream_key(self.seed, "masks", epoch, index))
        chosen = random.permutation(len(tokens))[: int(self.targets[index])]
        labels = np.full(len(tokens), IGNORED)
        labels[chosen] = tokens[chosen]
        draws, others = random.random(len(chosen)), random.integers(self.vocabulary, size=len(chosen))
        becomes = np.where(draws < HIDDEN, self.mask, np.where(draws < HIDDEN + OTHER, others, tokens[chosen]))
        tokens[chosen] = becomes
        before, after = len(self.settings.source_before), len(self.settings.source_after)
        marked = np.array(source_ids(self.settings, tokens.tolist()))
        return marked, np.pad(labels, (before, after), constant_values=IGNORED)


class MaskedText:
    """A validation text whose hidden tokens are the same at every measurement."""

    remark = ""

    def __init__(self, config: Config, corpus: Corpus, loaded: Loaded, stop: Stop) -> None:
        self.config, self.model = config, loaded.model
        settings, self.tokenizer, _ = loaded.text
        self.examples = MaskedBlocks(corpus, settings, self.tokenizer.size, config.seed)
        total = len(self.examples.targets)
        self.count = min(config.training.validate_sentences or total, total)
        self.held_out = HeldOut(config, self.examples, stop, np.arange(self.count))

    def measure(self, decoding: DecodingConfig | None = None) -> dict[str, Any]:
        """The loss a hidden token, its perplexity, the share that is found, and samples."""
        right = wanted = 0
        device = next(self.model.parameters()).device

        def nll_of(_: NDArray[np.int64], batch: Batch) -> torch.Tensor:
            nonlocal right, wanted
            output = forward(self.model, batch)
            hidden, labels = self._found(batch, output)
            right, wanted = right + int((hidden == labels).sum()), wanted + len(labels)
            return CrossEntropy().of(output, self.model, batch).nll

        with other_sizes(), evaluating(self.model), switched_on():
            files.point("validate:begin")
            loss = self.held_out.mean(self.model, nll_of)
            files.point("validate:loss")
            values = {"loss": loss, "perplexity": math.exp(min(loss, 700.0)), "accuracy": right / max(wanted, 1)}
            return {**values, "samples": self._samples(device)}

    def rehearse(self) -> None:
        self.held_out.rehearse(self.model, CrossEntropy())

    def _found(self, batch: Batch, output: Output) -> tuple[torch.Tensor, torch.Tensor]:
        """The likeliest token of each hidden one by a forward pass, [M], and the token itself."""
        real = batch.labels != IGNORED
        return self.model.logits(output.hidden[real]).argmax(-1), batch.labels[real]

    def _samples(self, device: torch.device) -> list[dict[str, str]]:
        found = []
        for index in spread(min(self.config.training.samples, self.count), self.count):
            batch = self.examples.batch(np.array([index]), 0).to(device)
            best, _ = self._found(batch, forward(self.model, batch))
            ids, labels = batch.target.ids[0].cpu().numpy(), batch.labels[0].cpu().numpy()
            guesses = np.full(len(ids), IGNORED)
            guesses[labels != IGNORED] = best.cpu().numpy()
            masks = np.flatnonzero((ids == self.examples.mask) & (labels != IGNORED))
            if len(masks):  # the few tokens of a short block may all be visible
                found.append(self._sample(ids, masks, guesses, labels))
        return found

    def _sample(
        self, ids: NDArray[np.int64], masks: NDArray[np.int64], guesses: NDArray[np.int64], labels: NDArray[np.int64]
    ) -> dict[str, str]:
        """The text around a block's first masks; the words found for these masks, and those that are hidden."""
        settings = self.examples.settings
        first = max(len(settings.source_before), int(masks[0]) - AHEAD)
        last = min(len(ids) - len(settings.source_after), first + WINDOW)
        masks = masks[masks < last]
        parts = [self.tokenizer.decode(part.tolist()).strip() for part in np.split(ids[first:last], masks - first)]
        source = " [MASK] ".join(parts).strip()
        words = [
            " ".join(piece.removeprefix(SPACE) or piece for piece in self.tokenizer.tokens(some[masks].tolist()))
            for some in (guesses, labels)
        ]
        return {"source": source, "hypothesis": words[0], "reference": words[1]}
