"""A decoder-only Transformer: a language model that continues a prompt, arranged as GPT-2 (Radford et al. 2019).

The parts are those of the Transformer: a causal stack without a memory, and a table for input and output.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from regard.models.base import Scores
from regard.models.bodies import Single, Tree
from regard.models.options import StackOptions, option, shared
from regard.nn.feedforward import Activation
from regard.nn.positions import Positions, Rotary
from regard.nn.residual import Order


@dataclass(frozen=True, kw_only=True)
class DecoderOnly(StackOptions):
    """The options of a decoder-only model."""

    layers: int = option(6, "layers of the stack")
    positions: Positions = shared("positions", Rotary())
    order: Order = shared("order", "pre", "norm before each sub-layer (pre) or after it (post)")
    activation: Activation = shared("activation", "gelu")
    scale_embedding: bool = shared("scale_embedding", False)
    tied: bool = option(True, "one table for input and output")

    def tree(self) -> Tree:
        """The specs that these options stand for."""
        return Tree(
            target=self.embedding(),
            decoder=self.stack(self.layers, causal=True),
            scores=Scores(tied_to="target" if self.tied else None),
        )

    def build(self, vocabulary: int, target_vocabulary: int | None = None) -> Single:
        """The initialised model; it has one vocabulary."""
        if target_vocabulary not in (None, vocabulary):
            raise ValueError("a decoder-only model has one vocabulary")
        model = Single(self.tree(), self.width, vocabulary)
        model.options = self
        initialize(model, self.layers, tables=not self.scale_embedding)
        return model


PRESETS = {
    "base": DecoderOnly(),
    "big": DecoderOnly(width=1024, heads=16, feedforward=4096),
    "small": DecoderOnly(width=256, layers=4, heads=4, feedforward=1024),
    "tiny": DecoderOnly(width=128, layers=4, heads=4, feedforward=256),
}


@torch.no_grad()
def initialize(model: Single, layers: int, tables: bool) -> None:
    """GPT-2's initialisation: weights N(0, 0.02²), those of sub-layers' outputs divided by √(2L); biases 0.

    Without ``tables`` the embedding keeps N(0, 1/D), which suits vectors that are multiplied by √D.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            is_output = name.endswith(("attention.output", "feedforward.output"))
            nn.init.normal_(module.weight, std=0.02 / (2 * layers) ** 0.5 if is_output else 0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    if tables:
        nn.init.normal_(model.target_embedding.table.weight, std=0.02)
