"""Shortlists: only the target tokens with which a sentence is likely to be translated are scored.

Jean et al. 2015, "On Using Very Large Target Vocabulary", section 3.3: the commonest tokens, and for each token of the
source the likeliest of a lexicon. The output table is the largest matrix of a small model; a sentence wants a few
hundred rows of it. The lists are per sentence, so that a result does not depend on which others share its batch.
Probabilities are then those among the listed tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from regard.accel.topk import TopK, rows_at_once, topk_of_logits
from regard.data.lexicon import model_one
from regard.decoding.topk import native_of
from regard.directory import Loaded
from regard.errors import RegardError
from regard.models.contract import Model
from regard.outputs import write_output
from regard.text.tokenizer import Tokenizer
from regard.weights import read_tensors


@dataclass(frozen=True)
class Shortlist:
    """Target ids: ``common`` [F] for every sentence, ``likely`` [V, N] for each source id; a digest of vocabularies."""

    common: NDArray[np.int32]
    likely: NDArray[np.int32]
    vocabulary: bytes

    def allowed(self, sources: Sequence[Sequence[int]], size: int) -> Tensor:
        """Whether a source may use a target token, [B, size], ``size`` being that of the target vocabulary."""
        found = np.zeros((len(sources), size), dtype=bool)
        found[:, self.common] = True
        for row, ids in zip(found, sources, strict=True):
            row[self.likely[np.asarray(ids, dtype=np.int64)]] = True
        return torch.from_numpy(found)

    def head(
        self, model: Model, sources: Sequence[Sequence[int]], ends: Tensor, suppressed: Tensor | None
    ) -> ShortlistHead:
        """The rows of the model's output table that these sources may use."""
        allowed = self.allowed(sources, len(model.output_table()[0]))
        return ShortlistHead(model, allowed, ends, suppressed)

    def write(self, path: Path) -> None:
        """Write a safetensors file, in one step."""
        digest = np.frombuffer(self.vocabulary, np.uint8)
        arrays: dict[str, NDArray[Any]] = {"common": self.common, "likely": self.likely, "vocabulary": digest}
        write_output(path, safetensors.numpy.save(arrays))

    @classmethod
    def read(cls, path: Path | str, loaded: Loaded) -> Shortlist:
        """Read a shortlist that was made for this model's vocabulary; every fault is an error that names the file."""
        found = read_tensors(Path(path), named=True)
        text = loaded.text
        size = (text.tokenizer.size, text.target_tokenizer.size)
        kinds = {name: (tensor.dtype, tensor.dim()) for name, tensor in found.items()}
        if kinds != {"common": (torch.int32, 1), "likely": (torch.int32, 2), "vocabulary": (torch.uint8, 1)}:
            raise RegardError(f"{path}: not a shortlist (regard shortlist makes one)")
        common, likely, digest = (found[name].numpy() for name in ("common", "likely", "vocabulary"))
        if digest.tobytes() != vocabulary(text.tokenizer, text.target_tokenizer):
            raise RegardError(f"{path}: made for another vocabulary than that of {loaded.path}: make it anew")
        listed = np.concatenate((common, likely.flatten()))
        if len(likely) != size[0] or not len(common) or listed.min() < 0 or listed.max() >= size[1]:
            raise RegardError(f"{path}: damaged: its ids do not fit the vocabulary of {loaded.path}")
        return cls(common, likely, digest.tobytes())


class ShortlistHead:
    """The rows of a model's output table that some sentence of a batch may use.

    ``allowed`` [B, V]: whether a sentence may use a token; no sentence may use the ``suppressed`` tokens [n]. The
    ``ends`` [E] are allowed to all.
    """

    def __init__(self, model: Model, allowed: Tensor, ends: Tensor, suppressed: Tensor | None) -> None:
        table, bias = model.output_table()
        self.native = native_of(model)
        allowed = allowed.index_fill(1, ends.cpu(), True)
        if suppressed is not None:
            allowed = allowed.index_fill(1, suppressed.cpu(), False)
        tokens = allowed.any(0).nonzero()[:, 0]
        self.closed = ~allowed[:, tokens].to(table.device)  # [B, C]
        self.ends = torch.searchsorted(tokens, ends.cpu()).to(table.device)  # [E]
        self.tokens = tokens.to(table.device)  # [C], ascending
        self.table, self.bias = table[self.tokens], None if bias is None else bias[self.tokens]

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden [*, D] → [*, C]"""
        return torch.nn.functional.linear(hidden.to(self.table.dtype), self.table, self.bias)

    def topk(self, hidden: Tensor, k: int, sentence: Tensor, banned: Tensor | None) -> TopK:
        """As ``topk_of_logits``, of hidden [B, R, D], whose rows belong to the sentences [B · R]."""
        if banned is not None:
            column = torch.searchsorted(self.tokens, banned).clamp_(max=len(self.tokens) - 1)
            banned = torch.where(self.tokens[column] == banned, column, -1)
        topk = topk_of_logits(
            self.logits, hidden, k, self.ends,
            chunk=rows_at_once(len(self.tokens), hidden.device), banned=banned, closed=self.closed[sentence],
            native=self.native,
        )  # fmt: skip
        return topk._replace(tokens=self.tokens[topk.tokens])


def learn(
    sources: Sequence[Sequence[int]],
    targets: Sequence[Sequence[int]],
    loaded: Loaded,
    *,
    common: int,
    likely: int,
) -> Shortlist:
    """Learn a shortlist from the ids of sentence pairs.

    The list holds the ``common`` most frequent target ids, and for each source id the ``likely`` most probable by IBM
    Model 1. End marks are always listed. Where both languages have one vocabulary, each source token is listed for
    itself, so that names can be copied.
    """
    text = loaded.text
    sizes = text.tokenizer.size, text.target_tokenizer.size
    counts = np.bincount(np.concatenate([np.asarray(ids, np.int64) for ids in targets]), minlength=sizes[1])
    counts[list(text.settings.ends)] = counts.max() + 1
    first = np.argsort(-counts, kind="stable")[:common].astype(np.int32)
    lexicon = model_one([np.asarray(x) for x in sources], [np.asarray(x) for x in targets], nothing=sizes[0])
    starts = np.searchsorted(lexicon.source, np.arange(sizes[0] + 2))
    rank = np.arange(len(lexicon.source)) - starts[lexicon.source]
    chosen = (rank < likely) & (lexicon.source < sizes[0])
    table = np.full((sizes[0], likely + 1), first[0], dtype=np.int32)
    table[lexicon.source[chosen], rank[chosen]] = lexicon.target[chosen]
    if text.tokenizer is text.target_tokenizer:
        table[:, likely] = np.arange(sizes[0])
    return Shortlist(first, table, vocabulary(text.tokenizer, text.target_tokenizer))


def vocabulary(source: Tokenizer, target: Tokenizer) -> bytes:
    """A digest of both vocabularies, 32 bytes."""
    return hashlib.sha256((source.fingerprint + target.fingerprint).encode()).digest()
