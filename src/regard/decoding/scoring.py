"""Forced scores: the log-probability of every token of given outputs, from one forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from regard.accel.topk import rows_at_once
from regard.accel.ways import switched_on
from regard.data.batch import IGNORED
from regard.decoding.inputs import padded
from regard.models.contract import Model
from regard.nn.sequences import Tokens
from regard.text.marks import source_ids, target_ids
from regard.text.settings import TextSettings


class Scored(NamedTuple):
    """``score`` is the sum of ``token_scores``: the log-probabilities of the ids and of the end mark."""

    score: float
    token_scores: list[float]


class Forced(NamedTuple):
    """A batch for one forward pass over given outputs; axis 0 is sentences."""

    numbers: np.ndarray  # [B] their numbers in the input
    source: Tokens | None
    target: Tokens  # start marks, prompt, ids
    labels: Tensor  # [B, T] the ids and the end mark; ``IGNORED`` where no score is wanted


def forced_scores(
    model: Model,
    sources: Sequence[Sequence[int]] | None,
    targets: Sequence[Sequence[int]],
    settings: TextSettings,
    *,
    prompts: Sequence[Sequence[int]] | None = None,
    languages: Sequence[str] | None = None,
    ended: bool = True,
    batch_tokens: int = 4096,
    device: torch.device | str | None = None,
) -> list[Scored]:
    """The scores of ``targets`` (ids without marks) in the order of the input.

    ``prompts`` stand before the targets and are not scored; ``languages`` are those of the targets.

    The end mark is counted unless ``ended`` is False. A beam's score is the forced score of its ids.
    """
    table = model.output_table()[0]
    device = torch.device(device) if device is not None else table.device
    results: list[Scored] = [Scored(0.0, [])] * len(targets)
    training = model.training
    model.eval()
    try:
        with torch.inference_mode(), switched_on():
            for batch in forced_batches(
                sources, targets, settings, prompts=prompts, languages=languages, ended=ended,
                batch_tokens=batch_tokens, device=device,
            ):  # fmt: skip
                memory = None if batch.source is None else model.encode(batch.source)
                hidden = model(batch.target, memory).hidden  # [B, T, D]
                scores = label_scores(model, hidden, batch.labels, rows_at_once(table.shape[0], device))
                asked = batch.labels != IGNORED
                for number, row, real in zip(batch.numbers.tolist(), scores.cpu(), asked.cpu(), strict=True):
                    single = row[real].double()
                    results[number] = Scored(float(single.sum()), single.tolist())
    finally:
        model.train(training)
    return results


def label_scores(model: Model, hidden: Tensor, labels: Tensor, chunk: int = 0) -> Tensor:
    """Log-probabilities of labels [B, T] after hidden [B, T, D], 0 where the label is
    ``IGNORED``; ``chunk`` rows of logits at once."""
    real = labels != IGNORED
    rows, ids = hidden[real], labels[real]  # [M, D], [M]
    parts = []
    for at in range(0, len(ids), chunk or max(1, len(ids))):
        part = slice(at, at + chunk if chunk else None)
        logits = model.logits(rows[part])  # [chunk, V]
        logits = logits if logits.dtype == torch.float64 else logits.float()
        parts.append(logits.gather(1, ids[part, None])[:, 0] - logits.logsumexp(1))
    found = torch.cat(parts) if parts else hidden.new_zeros(0)
    return found.new_zeros(labels.shape).masked_scatter_(real, found)


def forced_batches(
    sources: Sequence[Sequence[int]] | None,
    targets: Sequence[Sequence[int]],
    settings: TextSettings,
    *,
    prompts: Sequence[Sequence[int]] | None = None,
    languages: Sequence[str] | None = None,
    ended: bool = True,
    batch_tokens: int = 4096,
    device: torch.device | str = "cpu",
) -> Iterator[Forced]:
    """Batches of similar length; sentences × (longest of either side) ≤ ``batch_tokens``, at least one sentence."""
    prompts = prompts or [()] * len(targets)
    languages = languages or [""] * len(targets)
    fulls = [
        target_ids(settings, ids, prompt, language, ended)
        for ids, prompt, language in zip(targets, prompts, languages, strict=True)
    ]
    read: list[list[int]] | None = None
    if sources is not None:
        read = [source_ids(settings, ids, language=language) for ids, language in zip(sources, languages, strict=True)]
    sizes = np.array([len(full) - 1 for full, _ in fulls], dtype=np.int64)
    if read is not None:
        sizes = np.maximum(sizes, [len(ids) for ids in read])
    order = np.lexsort((np.arange(len(sizes)), -sizes))
    at = 0
    while at < len(order):
        count = max(1, batch_tokens // max(1, int(sizes[order[at]])))
        index = order[at : at + count]
        at += count
        inputs = [fulls[i][0][:-1] for i in index]
        labels = [[IGNORED] * (unscored := fulls[i][1]) + fulls[i][0][1 + unscored :] for i in index]
        source = None if read is None else padded([read[i] for i in index], settings.pad, device)
        yield Forced(index, source, padded(inputs, settings.pad, device), padded(labels, IGNORED, device).ids)
