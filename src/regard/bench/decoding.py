"""How fast a model translates on this machine: sentences and target tokens a second, greedy and with beams."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from regard.pipelines import Translator
from regard.training.limits import matrix_rate, work_of


@dataclass(frozen=True)
class DecodingSpeed:
    """One beam width. ``share`` counts one forward pass of the sources and of N hypotheses as long as the winner."""

    beam: int
    sentences: int
    sentences_per_second: float
    target_tokens_per_second: float
    share: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def line(self) -> str:
        """For people."""
        return (
            f"beam {self.beam}: {self.sentences_per_second:,.1f} sentences/s, {self.target_tokens_per_second:,.0f} "
            f"target tokens/s, {self.share:.1%} of the matrix rate"
        )


def decoding_speed(
    translator: Translator, texts: Sequence[str], beams: Sequence[int] = (1, 5), batch_tokens: int = 4096
) -> list[DecodingSpeed]:
    """Translate ``texts`` with each beam; cutting into subwords is not timed, and a first batch warms up."""
    device = translator.model.output_table()[0].device
    rate, work = matrix_rate(device), work_of(translator.model)
    sources = [ids for ids in translator.tokenizer.encode_batch(list(texts)) if ids]
    found = []
    for beam in beams:
        search = translator.search(beam=beam, n_best=1)
        list(translator.engine(sources[:32], search, batch_tokens))
        start = time.perf_counter()
        results = list(translator.engine(sources, search, batch_tokens))
        if device.type == "cuda":
            torch.cuda.synchronize()  # a clock is read
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
            )
        )
    return found
