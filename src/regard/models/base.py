"""The base of all text models: the table that turns hidden states into logits, and tables that are one in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from regard.nn.embedding import Embedding, TokenEmbedding
from regard.nn.transform import Transform

Share = Literal["all", "target", "inputs", "none"]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Spec of the logits, scale · before(x) · tableᵀ + bias, where x is what the last stack gives.

    ``tied_to`` "target": the table is that of the target's embedding; None: a table of its own. ``before``: BERT's
    transform (Devlin et al. 2018), or None. ``scale``: 1 / √D in T5 where the table is tied (Raffel et al. 2020).
    """

    tied_to: Literal["target"] | None = "target"
    scale: float = 1.0
    bias: bool = False
    before: Transform | None = None


class TiedModel(nn.Module):
    """A model whose output table may be its target's embedding, which may be its source's embedding (section 3.4).

    ``ties`` names parameters that are one in memory, as {left out on disk: kept}; they are joined before loading.
    """

    source_embedding: TokenEmbedding
    target_embedding: TokenEmbedding
    options: object  # whose ``build`` made the model: for saving and export; no model reads them

    def __init__(self) -> None:
        super().__init__()
        self.ties: dict[str, str] = {}
        self.register_load_state_dict_pre_hook(_fill_in_ties)  # type: ignore[no-untyped-call]

    def tie(self, target: Embedding, scores: Scores | None) -> None:
        """Shares tables as ``target`` and ``scores`` say, and makes what else scores need; called after the embeddings.

        ``scores`` None: the model has no output table.
        """
        vocabulary, width = self.target_embedding.table.weight.shape
        if target.tied_to == "source":
            self.target_embedding.table = self.source_embedding.table
            self.ties["target_embedding.table.weight"] = "source_embedding.table.weight"
        own = scores is not None and scores.tied_to is None
        self.output = nn.Linear(width, vocabulary, bias=False) if own else None
        self.output_bias = nn.Parameter(torch.zeros(vocabulary)) if scores is not None and scores.bias else None
        transform = None if scores is None else scores.before
        self.before_scores = None if transform is None else transform.build(width)
        self.has_scores, self.score_scale = scores is not None, 1.0 if scores is None else scores.scale

    def for_scores(self, x: Tensor) -> Tensor:
        """x [*, D] as the last stack gives it → hidden [*, D], which the output table multiplies."""
        x = x if self.before_scores is None else self.before_scores(x)
        return x if self.score_scale == 1 else x * self.score_scale

    @property
    def longest(self) -> int | None:
        """How many tokens of a sentence have positions, its mark included; None: unlimited."""
        positions = self.target_embedding.positions
        return None if positions is None else positions.limit

    def output_table(self) -> tuple[Tensor, Tensor | None]:
        """The matrix [V, D] that makes logits of hidden states, and their bias [V] if there is one.

        Raises TypeError where the model has no scores of tokens.
        """
        if not self.has_scores:
            raise TypeError("this model has no scores of tokens; the head 'masked_words' gives an encoder some")
        table = self.target_embedding.table.weight if self.output is None else self.output.weight
        return table, self.output_bias

    def logits(self, hidden: Tensor, candidates: Tensor | None = None) -> Tensor:
        """hidden [*, D] → [*, V], or [*, C] for the ``candidates`` [C] alone."""
        table, bias = self.output_table()
        if candidates is not None:
            table, bias = table[candidates], None if bias is None else bias[candidates]
        return nn.functional.linear(hidden.to(table.dtype), table, bias)


def one_vocabulary(share: Share, vocabulary: int, target_vocabulary: int | None) -> int:
    """The size of the target's vocabulary; a table for both languages needs one vocabulary for both."""
    if share in ("all", "inputs") and target_vocabulary not in (None, vocabulary):
        raise ValueError(f"share='{share}' needs one vocabulary for both languages; use share='target' with two")
    return vocabulary if target_vocabulary is None else target_vocabulary


def _fill_in_ties(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Adds the other names of shared tables, which files hold once."""
    ties: dict[str, str] = module.ties  # type: ignore[assignment]
    for left_out, kept in ties.items():
        if prefix + kept in state:
            state.setdefault(prefix + left_out, state[prefix + kept])
