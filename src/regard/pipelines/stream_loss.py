"""The loss of a language model on a stream of tokens, in blocks as long as the model has learnt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from regard.accel.topk import rows_at_once
from regard.data.batch import IGNORED
from regard.decoding.inputs import padded
from regard.decoding.scoring import label_scores
from regard.directory import Loaded
from regard.errors import RegardError
from regard.nn.sequences import Tokens
from regard.pipelines.rows import BATCH_TOKENS, Row, computed, text_model_of
from regard.text.marks import target_start


class StreamLoss(NamedTuple):
    """The negative log-probability of a stream in nats, summed over the ``tokens`` that were predicted."""

    nats: float
    tokens: int


def stream_loss(loaded: Loaded, ids: Sequence[int], batch_tokens: int = BATCH_TOKENS) -> StreamLoss:
    """The loss of ``ids`` after the start marks of the model.

    A block begins with the last token of the one before, so that every token is predicted once; without a start mark
    the first one is not.
    """
    text_model = text_model_of(loaded, "language_model", "continue texts")
    longest = text_model.model.longest
    size = text_model.settings.max_length if longest is None else min(text_model.settings.max_length, longest)
    start = target_start(text_model.settings)
    stream, labels = [*start, *ids], [*[IGNORED] * len(start), *ids]
    places = range(0, len(stream) - 1, size)
    if not places:
        raise RegardError(f"a text of {len(ids)} tokens: expected two or more")
    wanted = [labels[at + 1 : at + size + 1] for at in places]

    def compute(tokens: Tokens, numbers: NDArray[np.int64]) -> Tensor:
        """The scores of a batch: [B]."""
        asked = padded([wanted[i] for i in numbers], IGNORED, tokens.ids.device).ids  # [B, T]
        chunk = rows_at_once(text_model.model.output_table()[0].shape[0], tokens.ids.device)
        scores: Tensor = label_scores(text_model.model, text_model.model(tokens, None).hidden, asked, chunk)
        return scores.cpu().double().sum(-1)

    rows = [Row(stream[at : at + len(asked)], [], 0) for at, asked in zip(places, wanted, strict=True)]
    nats = -math.fsum(float(score) for _, score in computed(text_model, rows, compute, batch_tokens))
    return StreamLoss(nats, sum(label != IGNORED for label in labels[1:]))
