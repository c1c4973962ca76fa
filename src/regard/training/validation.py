"""Validation on a corpus that is not trained on: loss, perplexity, BLEU and sample translations."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regard import files
from regard.accel.ways import switched_on
from regard.config import Config, DecodingConfig
from regard.data.batch import collate
from regard.data.checks import has_text
from regard.data.plan import plan
from regard.data.shards import Corpus
from regard.directory import Loaded
from regard.errors import RegardError
from regard.machine.memory import other_sizes
from regard.models.contract import Model
from regard.pipelines import Translator
from regard.training.objective import CrossEntropy

CHUNK = 250  # sentences translated between two calls of ``stop``


class Abandoned(Exception):
    """A validation was asked to stop half-way; it has left no trace."""


class Validator:
    """A validation corpus, ready to be measured again and again."""

    def __init__(
        self, config: Config, corpus: Corpus, loaded: Loaded, stop: Callable[[], bool] = lambda: False
    ) -> None:
        """``loaded`` is the model in training with its tokenizers; ``stop`` is called between batches."""
        self.config, self.corpus, self.loaded, self.stop = config, corpus, loaded, stop
        self.model: Model = loaded.model
        if config.training.metric == "bleu" and not self.model.has_source:
            raise RegardError("training.metric = 'bleu': this model has no source to translate; expected 'loss'")
        count = min(config.training.validate_sentences or len(corpus), len(corpus))
        sources = [corpus.source_text(index) for index in range(count)]
        references = [corpus.target_text(index) for index in range(count)]
        kept = [index for index in range(count) if has_text(references[index]) and self._reads(sources[index])]
        if not kept:
            raise RegardError(f"data.valid: none of its first {count:,} pairs has text on both sides")
        self.remark = _left_out(corpus, kept, count)
        self.sources = [sources[index] for index in kept]
        self.references = [references[index] for index in kept]
        numbers = np.array(kept, dtype=np.int64)
        source, target = corpus.lengths
        self.by_length = np.argsort(source[numbers], kind="stable")
        # Pairs that training would leave out have no part in the loss; they are translated all the same.
        longest = min(config.data.max_length, config.training.batch_tokens - 1)
        self.counted = numbers[np.maximum(source, target)[numbers] <= longest]
        if not len(self.counted):
            raise RegardError(
                f"data.valid: none of its {len(kept):,} pairs is short enough to have a loss: at most {longest} "
                "subwords a side (data.max_length, training.batch_tokens)"
            )
        self.batches = plan(
            source[self.counted],
            target[self.counted],
            batch_tokens=config.training.batch_tokens,
            seed=config.seed,
            epoch=0,
        )

    def _reads(self, source: str) -> bool:
        return not self.model.has_source or has_text(source)

    def measure(self, decoding: DecodingConfig | None = None) -> dict[str, Any]:
        """Loss a token (without smoothing), perplexity, and by greedy search (or ``decoding``) BLEU and samples."""
        with other_sizes(), evaluating(self.model), switched_on():
            files.point("validate:begin")
            loss = self._loss()
            files.point("validate:loss")
            values: dict[str, Any] = {"loss": loss, "perplexity": math.exp(min(loss, 700.0))}
            wanted = self.config.training.metric == "bleu" or decoding is not None
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

    def score(self, values: Mapping[str, Any]) -> float:
        """One number for a measurement by the metric of the configuration; more is better, NaN is worst."""
        score = values["bleu"] if self.config.training.metric == "bleu" else -values["loss"]
        return -math.inf if math.isnan(score) else float(score)

    def translate(self, decoding: DecodingConfig) -> list[str]:
        """The translation of every source, as users get it: long text in parts, repetitions decoded again."""
        translator = Translator(self.loaded, decoding)
        texts = [""] * len(self.sources)
        # Chunks of similar length, small enough that Ctrl-C is soon obeyed.
        for first in range(0, len(texts), CHUNK):
            self._check_stop()
            chunk = self.by_length[first : first + CHUNK]
            for index, found in zip(chunk, translator.translate([self.sources[i] for i in chunk]), strict=True):
                texts[index] = found.text
        return texts

    def rehearse(self) -> None:
        """Run the batch of the longest pair: a model that has no such position says so before the first step."""
        if self.batches:
            source, target = self.corpus.lengths
            with evaluating(self.model):
                longest = int(np.maximum(source, target)[self.counted].argmax())
                self._nll(self.counted[[longest]])

    def _loss(self) -> float:
        """Mean negative log-probability of a target token."""
        nll, tokens = 0.0, 0
        for update in self.batches:
            self._check_stop()
            nll += self._nll(self.counted[update.micro[0][0]])
            tokens += update.target_tokens
        return nll / tokens if tokens else math.nan

    def _nll(self, chosen: NDArray[np.int64]) -> float:
        """The summed negative log-probability of these pairs as one batch; waits for the device."""
        source, target = (
            [ids(int(index)) for index in chosen] for ids in (self.corpus.source_ids, self.corpus.target_ids)
        )
        batch = collate(source, target, self.loaded.text.settings)
        device = next(self.model.parameters()).device
        return float(CrossEntropy()(self.model, batch.to(device)).nll.item())

    def _samples(self, texts: Sequence[str]) -> list[dict[str, str]]:
        """Sentences spread evenly over the corpus, the same at every validation."""
        count = min(self.config.training.samples, len(texts))
        chosen = [(2 * number + 1) * len(texts) // (2 * count) for number in range(count)]
        return [
            {"source": self.sources[index], "hypothesis": texts[index], "reference": self.references[index]}
            for index in chosen
        ]

    def _check_stop(self) -> None:
        if self.stop():
            raise Abandoned


def _left_out(corpus: Corpus, kept: Sequence[int], count: int) -> str:
    """A line on the pairs that can't be scored; "" where there are none."""
    missing = sorted(set(range(count)) - set(kept))
    if not missing:
        return ""
    pairs = "pair" if len(missing) == 1 else "pairs"
    first = corpus.where(missing[0])
    return f"{len(missing):,} {pairs} of the validation corpus without text on a side: not scored (first: {first})"


@contextlib.contextmanager
def evaluating(model: Model) -> Iterator[None]:
    """The model without dropout and gradients inside; afterwards in the mode that it had."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


@contextlib.contextmanager
def swapped(model: Model, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """The model with these parameters inside; an empty mapping changes nothing."""
    parameters = dict(model.named_parameters())
    own = {name: parameters[name].data for name in weights}
    for name, tensor in weights.items():
        parameters[name].data = tensor
    try:
        yield
    finally:
        for name, tensor in own.items():
            parameters[name].data = tensor
