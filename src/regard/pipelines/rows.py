"""Rows of ids for a model that reads whole texts: with marks, within the model's positions, in batches by length."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regard.accel.ways import switched_on
from regard.decoding.inputs import padded
from regard.directory import Loaded
from regard.errors import RegardError
from regard.nn.sequences import Tokens
from regard.text.marks import segment_ids, source_ids
from regard.text.settings import TextSettings
from regard.text.tokenizer import Tokenizer

BATCH_TOKENS = 4096  # subwords of a batch, padding included


class Row(NamedTuple):
    """A text, or a pair of texts, as the model reads it; the text's own ids begin at ``first``."""

    ids: list[int]
    segments: list[int]
    first: int


class TextModel(NamedTuple):
    """A model that reads whole texts, and what a pipeline needs beside it."""

    model: Any
    settings: TextSettings
    tokenizer: Tokenizer
    labels: tuple[str, ...]


def text_model_of(loaded: Loaded, task: str, does: str) -> TextModel:
    """A loaded model of ``task``; of another task a RegardError: the model does not do what such a model ``does``."""
    if loaded.task != task:
        raise RegardError(f"{loaded.path}: the model's task is {loaded.task}: it does not {does}")
    settings, tokenizer, _ = loaded.text
    return TextModel(loaded.model, settings, tokenizer, tuple(getattr(loaded.options, "labels", ())))


def row(settings: TextSettings, ids: Sequence[int], pair: Sequence[int] | None = None) -> Row:
    """A text, or a pair of texts, with its marks."""
    first = source_ids(settings, [-1]).index(-1)
    return Row(source_ids(settings, ids, pair), segment_ids(settings, ids, pair), first)


def longest_text(text_model: TextModel, *, pair: bool = False) -> int:
    """How many subwords of a text, or of two together, the model reads at once; a RegardError if there is no room."""
    marks = len(source_ids(text_model.settings, [], [] if pair else None))
    longest = text_model.model.longest
    learnt: int = text_model.settings.max_length
    if longest is not None and longest <= marks:
        raise RegardError(f"{marks} marks stand around {'two texts' if pair else 'a text'}, and the model has learnt "
                          f"{longest} positions: there is no room for text")  # fmt: skip
    return learnt if longest is None else min(learnt, longest - marks)


def computed(
    text_model: TextModel,
    rows: Sequence[Row],
    compute: Callable[[Tokens, NDArray[np.int64]], Tensor],
    batch_tokens: int,
) -> Iterator[tuple[int, Tensor]]:
    """The number of each row and its result [...] on the CPU, longest rows first.

    ``compute`` makes results [B, ...] of a batch; the second argument has the numbers of its rows.
    """
    device = next(iter(text_model.model.parameters())).device
    with torch.inference_mode(), switched_on():
        for numbers in batches([len(one.ids) for one in rows], batch_tokens):
            results = compute(tokens_of([rows[i] for i in numbers], text_model.settings, device), numbers).cpu()
            yield from zip(numbers.tolist(), results, strict=True)


def batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[NDArray[np.int64]]:
    """Numbers of rows of similar length, the longest first; rows × longest ≤ ``batch_tokens``, at least one row."""
    order = np.lexsort((np.arange(len(lengths)), -np.asarray(lengths, dtype=np.int64)))
    at = 0
    while at < len(order):
        count = max(1, batch_tokens // max(1, lengths[order[at]]))
        yield order[at : at + count]
        at += count


def tokens_of(rows: Sequence[Row], settings: TextSettings, device: torch.device) -> Tokens:
    """Rows as one padded batch; its segments are None where all ids are of segment 0."""
    tokens = padded([one.ids for one in rows], settings.pad, "cpu")
    if any(any(one.segments) for one in rows):
        tokens = replace(tokens, segments=padded([one.segments for one in rows], 0, "cpu").ids)
    return tokens.to(device)


def probabilities(scores: Tensor) -> Tensor:
    """Scores [..., C] as probabilities in fp32. Of a single label, C = 1, the logistic function, as Hugging Face's."""
    scores = scores.float()
    return scores.softmax(-1) if scores.shape[-1] > 1 else scores.sigmoid()
