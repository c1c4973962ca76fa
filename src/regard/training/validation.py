"""How good the weights are on text that they have not learnt from: loss, perplexity, BLEU, sample translations."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from regard import files
from regard.config import Config
from regard.data.batch import collate
from regard.data.plan import plan
from regard.data.shards import Corpus
from regard.decoding.engine import decode
from regard.decoding.search import Search
from regard.text.settings import TextSettings
from regard.text.tokenizer import Tokenizer
from regard.training.objective import CrossEntropy


class Abandoned(Exception):
    """A validation was asked to stop half-way; it has left no trace."""


class Validator:
    """A validation corpus, ready to be measured again and again."""

    def __init__(
        self,
        config: Config,
        corpus: Corpus,
        target_tokenizer: Tokenizer,
        settings: TextSettings,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.config, self.corpus, self.settings, self.stop = config, corpus, settings, stop
        self.target_tokenizer = target_tokenizer
        count = min(config.training.validate_sentences or len(corpus), len(corpus))
        self.sources = [corpus.source_ids(index).tolist() for index in range(count)]
        self.targets = [corpus.target_ids(index).tolist() for index in range(count)]
        self.references = [corpus.target_text(index) for index in range(count)]
        source, target = (lengths[:count] for lengths in corpus.lengths)
        # Pairs that training would leave out have no part in the loss; they are translated all the same.
        longest = min(config.data.max_length, config.training.batch_tokens - 1)
        self.counted = np.flatnonzero(np.maximum(source, target) <= longest)
        self.batches = plan(
            source[self.counted],
            target[self.counted],
            batch_tokens=config.training.batch_tokens,
            seed=config.seed,
            epoch=0,
        )

    def measure(self, model: Any, *, search: Search | None = None) -> dict[str, Any]:
        """Loss a token (without smoothing), perplexity, and by greedy search (or ``search``) BLEU and samples."""
        training = self.config.training
        with evaluating(model):
            files.point("validate:begin")
            loss = self._loss(model)
            files.point("validate:loss")
            values: dict[str, Any] = {"loss": loss, "perplexity": math.exp(min(loss, 700.0))}
            if training.metric == "bleu" or search is not None:
                from regard.evaluation import corpus_scores  # imports sacreBLEU

                texts = self.translate(model, search or Search(beam=1, max_extra=self.config.decoding.max_extra))
                files.point("validate:translated")
                scores = corpus_scores(texts, self.references, self.config.data.target)
                values |= {"bleu": scores.bleu, "bleu_signature": scores.bleu_signature}
                values["samples"] = self._samples(texts)
        return values

    def score(self, values: Mapping[str, Any]) -> float:
        """One number for a measurement by the metric of the configuration; more is better, NaN is worst."""
        score = values["bleu"] if self.config.training.metric == "bleu" else -values["loss"]
        return -math.inf if math.isnan(score) else float(score)

    def translate(self, model: Any, search: Search) -> list[str]:
        """The best translation of every source, in order; an empty source stays empty."""
        device = next(model.parameters()).device
        batch_tokens = self.config.decoding.batch_tokens
        texts = []
        for result in decode(model, self.sources, self.settings, search, batch_tokens=batch_tokens, device=device):
            self._check_stop()
            ids = result.hypotheses[0].ids if self.sources[result.index] else []
            texts.append(self.target_tokenizer.decode(ids))
        return texts

    def _loss(self, model: Any) -> float:
        """Mean negative log-probability of a target token."""
        device = next(model.parameters()).device
        objective, nll, tokens = CrossEntropy(), 0.0, 0
        for update in self.batches:
            self._check_stop()
            chosen = self.counted[update.micro[0][0]]
            batch = collate([self.sources[i] for i in chosen], [self.targets[i] for i in chosen], self.settings)
            nll += objective(model, batch.to(device)).nll.item()  # waits for the device, once a batch
            tokens += batch.target_tokens
        return nll / tokens if tokens else math.nan

    def _samples(self, texts: Sequence[str]) -> list[dict[str, str]]:
        """Sentences spread evenly over the corpus, the same at every validation."""
        count = min(self.config.training.samples, len(texts))
        chosen = [(2 * number + 1) * len(texts) // (2 * count) for number in range(count)]
        sources = [self.corpus.source_text(index) for index in chosen]
        return [
            {"source": source, "hypothesis": texts[index], "reference": self.references[index]}
            for source, index in zip(sources, chosen, strict=True)
        ]

    def _check_stop(self) -> None:
        if self.stop():
            raise Abandoned


@contextlib.contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Without dropout and gradients inside, as it was outside."""
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(training)


@contextlib.contextmanager
def swapped(model: Any, weights: Mapping[str, Tensor]) -> Iterator[None]:
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
