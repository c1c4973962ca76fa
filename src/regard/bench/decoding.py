"""The decoding speed of a model on this machine: sentences and target tokens a second, greedy and with beams."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from regard.bench.breakdown import breakdown, in_lines
from regard.decoding.backends import Engine
from regard.decoding.engine import decode_inputs
from regard.decoding.search import Search
from regard.decoding.waiting import Input, inputs_of
from regard.pipelines import Translator
from regard.training.rates import SIZES, rate_for, work_of


@dataclass(frozen=True)
class DecodingSpeed:
    """The speed with beam width N. ``share`` counts a forward pass of the sources and of N outputs of final length."""

    beam: int
    sentences: int
    sentences_per_second: float
    target_tokens_per_second: float
    share: float
    parts: dict[str, float] = field(default_factory=dict)  # shares of the time, if wanted

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[str]:
        """The figures as lines of text."""
        speed = (
            f"beam {self.beam}: {self.sentences_per_second:,.1f} sentences/s, {self.target_tokens_per_second:,.0f} "
            f"target tokens/s, {self.share:.1%} of the matrix rate"
        )
        return [speed, *in_lines(self.parts)]


def decoding_speed(
    translator: Translator,
    texts: Sequence[str],
    beams: Sequence[int] = (1, 5),
    batch_tokens: int = 4096,
    *,
    parts: bool = False,
) -> list[DecodingSpeed]:
    """Translate ``texts`` with each beam; tokenizing is not timed, and a first batch warms up.

    With ``parts`` the texts are decoded once more under the profiler, to measure the shares of the time.
    """
    table = translator.model.output_table()[0]
    device = table.device
    # Not the largest product: decoding was measured a tenth slower after its memory.
    rate, work = rate_for(translator.model, batch_tokens, table.dtype, sizes=SIZES[:2]), work_of(translator.model)
    sources = [ids for ids in translator.tokenizer.encode_batch(list(texts)) if ids]
    inputs = inputs_of(sources)
    found = []
    for beam in beams:
        search = translator.search(beam=beam, n_best=1)
        list(translator.backend(inputs[:32], search, batch_tokens))
        start = time.perf_counter()
        results = list(translator.backend(inputs, search, batch_tokens))
        if device.type == "cuda":
            torch.cuda.synchronize()  # before the clock is read
        seconds = time.perf_counter() - start
        sizes = np.array([len(ids) + 1 for ids in sources])
        lengths = np.array([len(result.hypotheses[0].ids) + 1 for result in results])
        once = work.of(sizes, lengths) / 3  # no backward pass
        source_only = work.of(sizes, np.zeros_like(lengths)) / 3
        operations = source_only + beam * (once - source_only)
        found.append(
            DecodingSpeed(
                beam=beam,
                sentences=len(sources),
                sentences_per_second=len(sources) / seconds,
                target_tokens_per_second=int(lengths.sum()) / seconds,
                share=operations / seconds / rate,
                parts=_parts(translator, inputs, search, batch_tokens) if parts else {},
            )
        )
    return found


def _parts(translator: Translator, inputs: list[Input], search: Search, batch_tokens: int) -> dict[str, float]:
    """Shares of the time of one running batch in this thread, the only one that the profiler sees."""
    model, settings, backend = translator.model, translator.settings, translator.backend
    if isinstance(backend, Engine):
        model, settings = backend.prepared(inputs, search), backend.settings
    return breakdown(
        lambda: list(decode_inputs(model, inputs, settings, search, batch_tokens=batch_tokens)),
        model.output_table()[0].device,
    )
