"""The Transformer of "Attention Is All You Need" (Vaswani et al. 2017): options, initialisation, model.

Table 3 of the paper is ``BASE`` and ``BIG``; ``SMALL`` and ``TINY`` are for corpora of a few ten thousand pairs.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from regard.models.base import Share, TiedModel, one_vocabulary
from regard.nn.embedding import Embedding
from regard.nn.feedforward import Activation, FeedForward
from regard.nn.layers import Layer
from regard.nn.layout import Layout
from regard.nn.multihead import Attention, MultiHeadAttention
from regard.nn.norm import LayerNorm, Norm
from regard.nn.positions import Positions, Sinusoidal
from regard.nn.residual import Order
from regard.nn.sequences import Memory, Output, Tokens
from regard.nn.stacks import Stack
from regard.nn.states import KeyValueState


@dataclass(frozen=True, kw_only=True)
class Transformer:
    """The options: one flat set of choices, each of which ``tree`` puts wherever it belongs."""

    width: int = field(default=512, metadata={"help": "model width D"})
    encoder_layers: int = field(default=6, metadata={"help": "layers of the encoder"})
    decoder_layers: int = field(default=6, metadata={"help": "layers of the decoder"})
    heads: int = field(default=8, metadata={"help": "attention heads H; each is width / heads wide"})
    feedforward: int = field(default=2048, metadata={"help": "inner width F of the feed-forward network"})
    dropout: float = field(default=0.1, metadata={"help": "dropout on the output of each sub-layer"})
    embedding_dropout: float | None = field(
        default=None, metadata={"help": "dropout on embedding + position; not given: as dropout"}
    )
    activation_dropout: float = field(default=0.0, metadata={"help": "dropout inside the feed-forward network"})
    attention_dropout: float = field(default=0.0, metadata={"help": "dropout on attention weights (slow on CPU)"})
    positions: Positions = field(
        default=Sinusoidal(), metadata={"help": "sinusoidal, learned, rotary, relative_bias or none"}
    )
    norm: Norm = field(default=LayerNorm(), metadata={"help": "layer_norm or rms_norm"})
    order: Order = field(default="post", metadata={"help": "norm after the residual (post, the paper) or before (pre)"})
    final_norm: bool | None = field(
        default=None, metadata={"help": "a norm after the last layer; not given: in pre order only"}
    )
    activation: Activation = field(default="relu", metadata={"help": "activation of the feed-forward network"})
    gated: bool = field(default=False, metadata={"help": "a gate in the feed-forward network (GLU)"})
    bias: bool = field(default=True, metadata={"help": "biases in projections and feed-forward network"})
    share: Share = field(
        default="all",
        metadata={"help": "one table for source, target and output (all), target and output (target), or none shared"},
    )
    scale_embedding: bool = field(default=True, metadata={"help": "embeddings times the square root of the width"})
    output_bias: bool = field(default=False, metadata={"help": "a bias on the logits"})

    def __post_init__(self) -> None:
        if self.width < 1 or self.heads < 1 or self.width % self.heads:
            raise ValueError(f"width={self.width} must be a multiple of heads={self.heads}")
        for name in ("encoder_layers", "decoder_layers", "feedforward"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")

    @property
    def normed_at_the_end(self) -> bool:
        """Whether a norm stands after the last layer of each stack."""
        return self.order == "pre" if self.final_norm is None else self.final_norm

    def tree(self) -> tuple[Stack, Stack]:
        """The specs of encoder and decoder that these options stand for."""
        attention = Attention(heads=self.heads, bias=self.bias, dropout=self.attention_dropout)
        feedforward = FeedForward(
            width=self.feedforward,
            activation=self.activation,
            gated=self.gated,
            bias=self.bias,
            dropout=self.activation_dropout,
        )
        encoder = Layer(
            attention=attention, feedforward=feedforward, norm=self.norm, order=self.order, dropout=self.dropout
        )
        decoder = replace(encoder, cross=attention)
        final_norm = self.norm if self.normed_at_the_end else None
        return (
            Stack(layers=(encoder,) * self.encoder_layers, positions=self.positions, final_norm=final_norm),
            Stack(
                layers=(decoder,) * self.decoder_layers, positions=self.positions, causal=True, final_norm=final_norm
            ),
        )

    def build(self, vocabulary: int, target_vocabulary: int | None = None) -> TransformerModel:
        """The model with the paper's initialisation; ``target_vocabulary`` None: one vocabulary for both languages."""
        return TransformerModel(self, vocabulary, one_vocabulary(self.share, vocabulary, target_vocabulary))


BASE = Transformer()
BIG = Transformer(width=1024, heads=16, feedforward=4096, dropout=0.3)
SMALL = Transformer(width=256, encoder_layers=4, decoder_layers=4, heads=4, feedforward=1024, dropout=0.3)
TINY = Transformer(width=128, encoder_layers=4, decoder_layers=4, heads=4, feedforward=256, dropout=0.3)
PRESETS = {"base": BASE, "big": BIG, "small": SMALL, "tiny": TINY}


class TransformerModel(TiedModel):
    """Figure 1: an encoder stack, a decoder stack that attends to it, and the table from ids to vectors and back."""

    has_source = True

    def __init__(self, options: Transformer, vocabulary: int, target_vocabulary: int) -> None:
        super().__init__()
        self.options, self.width = options, options.width
        encoder, decoder = options.tree()
        dropout = options.dropout if options.embedding_dropout is None else options.embedding_dropout

        def embedding(size: int) -> Embedding:
            return Embedding(size, options.width, options.positions, dropout=dropout, scaled=options.scale_embedding)

        self.source_embedding = embedding(vocabulary)
        self.encoder = encoder.build(options.width)
        self.target_embedding = embedding(target_vocabulary)
        self.decoder = decoder.build(options.width)
        self.tie(options.share, options.output_bias)
        initialize(self)

    def encode(self, source: Tokens) -> Memory:
        """Source sentences [B, S] → their memory, hidden [B, S, D]."""
        x = self.source_embedding(source.ids)
        layout = Layout.padded(source.lengths, x.shape[1], packing=source.packed(self.training))
        return Memory(self.encoder(x, layout), source.lengths, layout.packing)

    def forward(self, target: Tokens, memory: Memory | None) -> Output:
        """Target inputs [B, T], begun with the start mark, and a memory → hidden [B, T, D]: position t predicts t+1."""
        assert memory is not None, "this model translates: it needs a memory"
        x = self.target_embedding(target.ids)
        layout = Layout.padded(target.lengths, x.shape[1], causal=True, packing=target.packed(self.training))
        cross = Layout.cross(memory.lengths, memory.hidden.shape[1], queries=layout.packing, keys=memory.packing)
        return Output(self.decoder(x, layout, memory=memory.hidden, memory_layout=cross))

    def start(self, memory: Memory | None, beams: int, capacity: int, batch: int | None = None) -> KeyValueState:
        """A decoding state for ``beams`` hypotheses of up to ``capacity`` tokens for each sentence of the memory."""
        assert memory is not None, "this model translates: it needs a memory"
        self.target_embedding.reserve(capacity)
        return KeyValueState(
            shapes=self.decoder.cache_shapes,
            batch=len(memory.lengths),
            beams=beams,
            capacity=capacity,
            device=memory.hidden.device,
            memory=self.decoder.project_memory(memory, self.cache_dtype),
            memory_lengths=memory.lengths,
            dtype=self.cache_dtype,
        )

    def step(
        self,
        tokens: Tensor,
        state: KeyValueState,
        lengths: Tensor | None = None,
        extent: int | None = None,
        live: Tensor | None = None,
    ) -> Tensor:
        """New tokens [B, Q] → hidden [B, Q, D]: a prompt with ``lengths`` [B], else a token for each hypothesis.

        ``live`` [R]: which of the B · N hypotheses go on, ascending; the others' hidden states may be anything.
        """
        layout = state.advance(tokens.shape[1], lengths, extent)
        x = self.target_embedding(tokens, layout.positions)
        hidden: Tensor = self.decoder(
            x, layout, memory=state.memory, memory_layout=state.memory_layout, caches=state.caches, live=live
        )
        state.advanced(tokens.shape[1], lengths)
        return hidden


@torch.no_grad()
def initialize(model: nn.Module) -> None:
    """The paper's start: Xavier-uniform projections (Q, K and V as the three matrices they are), biases 0.

    Tables keep what they were made with, N(0, 1/D), norms gain 1 and bias 0.
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
