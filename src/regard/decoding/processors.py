"""Processors: small functions on log-probabilities [rows, V], which a strategy applies before it chooses a token.

Each gives new scores of the same shape; what may not be chosen gets -inf. Scores need not be normalised after it:
log-probabilities and logits are processed alike. The temperature and the three filters are those of Hugging Face's
``TemperatureLogitsWarper``, ``TopKLogitsWarper``, ``TopPLogitsWarper`` and ``MinPLogitsWarper``.

What can be said as ids that may not be chosen (``suppress``, ``ban``) is given to the top-k instead, where there is one
(accel/topk.py): a top-k need not write all scores anew.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Processor = Callable[[Tensor], Tensor]


def suppress(scores: Tensor, ids: Tensor) -> Tensor:
    """No row may choose the ids [n]."""
    return scores.index_fill(1, ids, -torch.inf)


def ban(scores: Tensor, ids: Tensor) -> Tensor:
    """Row r may not choose ids [rows, m] of row r; -1 stands for nothing. See ``repetition.repeating_tokens``."""
    where = scores.new_zeros(scores.shape[0], scores.shape[1] + 1, dtype=torch.bool)
    where = where.scatter_(1, torch.where(ids < 0, scores.shape[1], ids), True)[:, :-1]
    return scores.masked_fill(where, -torch.inf)


def temperature(scores: Tensor, value: float) -> Tensor:
    """Scores / value: below 1 the likely tokens become likelier, above 1 all become more alike."""
    return scores / value


def top_k(scores: Tensor, k: int) -> Tensor:
    """The k likeliest tokens of a row, and those that are as likely as the last of them (Fan et al. 2018)."""
    least = scores.topk(min(k, scores.shape[1]), dim=1).values[:, -1:]
    return scores.masked_fill(scores < least, -torch.inf)


def top_p(scores: Tensor, p: float) -> Tensor:
    """The likeliest tokens of a row that have probability p together (Holtzman et al. 2020); at least the likeliest."""
    ascending, order = scores.sort(dim=1)
    beyond = ascending.softmax(1).cumsum(1) <= 1 - p
    beyond[:, -1] = False
    return scores.masked_fill(beyond.scatter(1, order, beyond), -torch.inf)


def min_p(scores: Tensor, p: float) -> Tensor:
    """The tokens of a row that have at least p times the probability of its likeliest (Nguyen et al. 2024)."""
    probabilities = scores.softmax(1)
    highest, likeliest = probabilities.max(1, keepdim=True)
    beyond = (probabilities < p * highest).scatter(1, likeliest, False)
    return scores.masked_fill(beyond, -torch.inf)
