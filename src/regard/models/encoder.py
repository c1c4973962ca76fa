"""An encoder of texts, arranged as BERT (Devlin et al. 2018): options, presets, initialisation.

The text is the ``target`` of the contract, and every token sees all others. What is read from the hidden states is the
choice of a ``head``: words behind masks, labels of texts or of tokens, spans, or nothing but the states themselves.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from regard.models.bodies import Single, Tree
from regard.models.heads import Head, MaskedWords, TextLabels, TokenLabels, check_labels
from regard.models.options import StackOptions, option, shared
from regard.nn.embedding import Table
from regard.nn.feedforward import Activation
from regard.nn.norm import LayerNorm, Norm
from regard.nn.positions import Learned, LearnedPositions, Positions


@dataclass(frozen=True, kw_only=True)
class Encoder(StackOptions):
    """The options of an encoder; the defaults are BERT-base."""

    width: int = shared("width", 768)
    heads: int = shared("heads", 12)
    feedforward: int = shared("feedforward", 3072)
    layers: int = option(12, "layers of the stack")
    attention_dropout: float = shared("attention_dropout", 0.1)
    positions: Positions = shared("positions", Learned(length=512))
    norm: Norm = shared("norm", LayerNorm(eps=1e-12))
    activation: Activation = shared("activation", "gelu")
    scale_embedding: bool = shared("scale_embedding", False)
    embedding_norm: Norm | None = shared("embedding_norm", LayerNorm(eps=1e-12))
    segments: int = option(2, "vectors of segments, for pairs of texts; 0: none")
    head: Head | None = option(
        None,
        "what is read from the hidden states: masked_words, text_labels, token_labels, spans; not given: nothing",
    )
    labels: tuple[str, ...] = option((), "the names of the labels, for the heads text_labels and token_labels")

    def tree(self) -> Tree:
        """The specs that these options stand for; ValueError where head and labels do not fit."""
        named = isinstance(self.head, TextLabels | TokenLabels)
        if named != bool(self.labels):
            expected = "at least one" if named else "none, since only heads of texts and tokens have labels"
            raise ValueError(f"labels has {len(self.labels)} names: the head expects {expected}")
        check_labels(self.labels)
        return Tree(
            target=replace(self.embedding(), segments=self.segments),
            decoder=self.stack(self.layers),
            scores=self.head.scores() if isinstance(self.head, MaskedWords) else None,
            head=None if isinstance(self.head, MaskedWords) else self.head,
            labels=len(self.labels),
        )

    def build(self, vocabulary: int, target_vocabulary: int | None = None) -> Single:
        """The initialised model; it has one vocabulary."""
        if target_vocabulary not in (None, vocabulary):
            raise ValueError("an encoder has one vocabulary")
        model = Single(self.tree(), self.width, vocabulary)
        model.options = self
        initialize(model)
        return model


PRESETS = {
    "base": Encoder(),
    "large": Encoder(width=1024, layers=24, heads=16, feedforward=4096),
    "small": Encoder(width=256, layers=4, heads=4, feedforward=1024),
    "tiny": Encoder(width=128, layers=2, heads=2, feedforward=512),
}


@torch.no_grad()
def initialize(model: nn.Module) -> None:
    """BERT's initialisation: weights and tables N(0, 0.02²), biases 0."""
    for module in model.modules():
        if isinstance(module, nn.Linear | Table | LearnedPositions):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
