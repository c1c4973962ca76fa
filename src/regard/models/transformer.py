"""The Transformer of "Attention Is All You Need" (Vaswani et al. 2017): options, presets, initialisation.

Table 3 of the paper is ``BASE`` and ``BIG``; ``SMALL`` and ``TINY`` are for corpora of a few ten thousand pairs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from regard.models.base import Scores, Share, one_vocabulary
from regard.models.bodies import EncoderDecoder, Tree
from regard.models.options import LARGEST_SCALE, StackOptions, option
from regard.nn.multihead import MultiHeadAttention


@dataclass(frozen=True, kw_only=True)
class Transformer(StackOptions):
    """The options of an encoder-decoder: one flat set of choices, which ``tree`` puts wherever they belong."""

    encoder_layers: int = option(6, "layers of the encoder")
    decoder_layers: int = option(6, "layers of the decoder")
    share: Share = option(
        "all",
        "one table for source, target and output (all), target and output (target), source and target (inputs), "
        "or none shared",
    )
    output_bias: bool = option(False, "a bias on the logits")
    output_scale: float = option(1.0, "factor of the hidden states before the output table (T5: 1 / √D)")
    final_dropout: float = option(0.0, "dropout after the final norm of each stack (T5)")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.output_scale <= LARGEST_SCALE:
            raise ValueError(f"output_scale={self.output_scale} must be more than 0, and at most {LARGEST_SCALE:g}")

    def tree(self) -> Tree:
        """The specs that these options stand for."""
        encoder = self.stack(self.encoder_layers)
        decoder = self.stack(self.decoder_layers, causal=True, cross=True)
        return Tree(
            source=self.embedding(),
            encoder=replace(encoder, final_dropout=self.final_dropout),
            target=self.embedding(tied_to="source" if self.share in ("all", "inputs") else None),
            decoder=replace(decoder, final_dropout=self.final_dropout),
            scores=Scores(
                tied_to="target" if self.share in ("all", "target") else None,
                scale=self.output_scale,
                bias=self.output_bias,
            ),
        )

    def build(self, vocabulary: int, target_vocabulary: int | None = None) -> EncoderDecoder:
        """The initialised model; ``target_vocabulary`` None: one vocabulary for both languages."""
        sizes = vocabulary, one_vocabulary(self.share, vocabulary, target_vocabulary)
        model = EncoderDecoder(self.tree(), self.width, *sizes)
        model.options = self
        initialize(model)
        return model


BASE = Transformer()
BIG = Transformer(width=1024, heads=16, feedforward=4096, dropout=0.3)
SMALL = Transformer(width=256, encoder_layers=4, decoder_layers=4, heads=4, feedforward=1024, dropout=0.3)
TINY = Transformer(width=128, encoder_layers=4, decoder_layers=4, heads=4, feedforward=256, dropout=0.3)
PRESETS = {"base": BASE, "big": BIG, "small": SMALL, "tiny": TINY}


@torch.no_grad()
def initialize(model: nn.Module) -> None:
    """Projections Xavier-uniform (Q, K and V each as a matrix of its own), biases 0: the paper gives no such rule.

    Tables keep N(0, 1/D), with which they are made, and norms gain 1 and bias 0.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in model.modules():
        if isinstance(module, MultiHeadAttention):
            for matrix in module.matrices():
                nn.init.xavier_uniform_(matrix)
