"""A decoder-only Transformer: a language model that goes on from a prompt (Radford et al. 2019 in its arrangement).

The parts are those of the Transformer: a causal stack without a memory, under a table that is also its output.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from regard.models.base import TiedModel
from regard.nn.embedding import Embedding
from regard.nn.feedforward import Activation, FeedForward
from regard.nn.layers import Layer
from regard.nn.layout import Layout
from regard.nn.multihead import Attention
from regard.nn.norm import LayerNorm, Norm
from regard.nn.positions import Positions, Rotary
from regard.nn.residual import Order
from regard.nn.sequences import Memory, Output, Tokens
from regard.nn.stacks import Stack
from regard.nn.states import KeyValueState


@dataclass(frozen=True, kw_only=True)
class DecoderOnly:
    """The options of a decoder-only model."""

    width: int = field(default=512, metadata={"help": "model width D"})
    layers: int = field(default=6, metadata={"help": "layers of the stack"})
    heads: int = field(default=8, metadata={"help": "query heads H; each is width / heads wide"})
    key_value_heads: int = field(default=0, metadata={"help": "key-value heads G, a divisor of heads; 0: as many"})
    feedforward: int = field(default=2048, metadata={"help": "inner width F of the feed-forward network"})
    dropout: float = field(default=0.1, metadata={"help": "dropout on the output of each sub-layer"})
    embedding_dropout: float | None = field(
        default=None, metadata={"help": "dropout on embedding + position; not given: as dropout"}
    )
    activation_dropout: float = field(default=0.0, metadata={"help": "dropout inside the feed-forward network"})
    attention_dropout: float = field(default=0.0, metadata={"help": "dropout on attention weights (slow on CPU)"})
    positions: Positions = field(
        default=Rotary(), metadata={"help": "sinusoidal, learned, rotary, relative_bias or none"}
    )
    norm: Norm = field(default=LayerNorm(), metadata={"help": "layer_norm or rms_norm"})
    order: Order = field(default="pre", metadata={"help": "norm before each sub-layer (pre) or after it (post)"})
    final_norm: bool | None = field(
        default=None, metadata={"help": "a norm after the last layer; not given: in pre order only"}
    )
    activation: Activation = field(default="gelu", metadata={"help": "activation of the feed-forward network"})
    gated: bool = field(default=False, metadata={"help": "a gate in the feed-forward network (GLU)"})
    bias: bool = field(default=True, metadata={"help": "biases in projections and feed-forward network"})
    tied: bool = field(default=True, metadata={"help": "one table for input and output"})
    scale_embedding: bool = field(default=False, metadata={"help": "embeddings times the square root of the width"})

    def __post_init__(self) -> None:
        if self.width < 1 or self.heads < 1 or self.width % self.heads:
            raise ValueError(f"width={self.width} must be a multiple of heads={self.heads}")
        for name in ("layers", "feedforward"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")

    def tree(self) -> Stack:
        """The spec of the stack that these options stand for."""
        layer = Layer(
            attention=Attention(
                heads=self.heads,
                key_value_heads=self.key_value_heads,
                bias=self.bias,
                dropout=self.attention_dropout,
            ),
            feedforward=FeedForward(
                width=self.feedforward,
                activation=self.activation,
                gated=self.gated,
                bias=self.bias,
                dropout=self.activation_dropout,
            ),
            norm=self.norm,
            order=self.order,
            dropout=self.dropout,
        )
        normed_at_the_end = self.order == "pre" if self.final_norm is None else self.final_norm
        return Stack(
            layers=(layer,) * self.layers,
            positions=self.positions,
            causal=True,
            final_norm=self.norm if normed_at_the_end else None,
        )

    def build(self, vocabulary: int, target_vocabulary: int | None = None) -> DecoderOnlyModel:
        """The initialised model; it has one vocabulary."""
        if target_vocabulary not in (None, vocabulary):
            raise ValueError("a decoder-only model has one vocabulary")
        return DecoderOnlyModel(self, vocabulary)


PRESETS = {
    "base": DecoderOnly(),
    "big": DecoderOnly(width=1024, heads=16, feedforward=4096),
    "small": DecoderOnly(width=256, layers=4, heads=4, feedforward=1024),
    "tiny": DecoderOnly(width=128, layers=4, heads=4, feedforward=256),
}


class DecoderOnlyModel(TiedModel):
    """One causal stack, with the contract of every model; there is no source, so ``memory`` is None everywhere."""

    has_source = False

    def __init__(self, options: DecoderOnly, vocabulary: int) -> None:
        super().__init__()
        self.options, self.width = options, options.width
        self.target_embedding = Embedding(
            vocabulary,
            options.width,
            options.positions,
            dropout=options.dropout if options.embedding_dropout is None else options.embedding_dropout,
            scaled=options.scale_embedding,
        )
        self.decoder = options.tree().build(options.width)
        self.tie("target" if options.tied else "none")
        initialize(self)

    def encode(self, source: Tokens) -> Memory:
        """There is nothing to encode: what goes before is a prompt of ``step``, or stands in ``target``."""
        raise TypeError("this model has no source; give what goes before as a prompt")

    def forward(self, target: Tokens, memory: Memory | None = None) -> Output:
        """Token ids [B, T] → hidden [B, T, D]: position t predicts t+1."""
        x = self.target_embedding(target.ids)
        layout = Layout.padded(target.lengths, x.shape[1], causal=True, packing=target.packed(self.training))
        return Output(self.decoder(x, layout))

    def start(self, memory: Memory | None, beams: int, capacity: int, batch: int | None = None) -> KeyValueState:
        """A decoding state for ``beams`` hypotheses of up to ``capacity`` tokens for each of ``batch`` prompts."""
        assert batch is not None, "without a source, the number of sentences has to be given"
        self.target_embedding.reserve(capacity)
        device = self.target_embedding.table.weight.device
        return KeyValueState(
            shapes=self.decoder.cache_shapes, batch=batch, beams=beams, capacity=capacity, device=device,
            dtype=self.cache_dtype,
        )  # fmt: skip

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
        hidden: Tensor = self.decoder(x, layout, caches=state.caches, live=live)
        state.advanced(tokens.shape[1], lengths)
        return hidden


@torch.no_grad()
def initialize(model: DecoderOnlyModel) -> None:
    """GPT-2's start: everything N(0, 0.02²), what is added to the residual stream divided by √(2L); biases 0."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            residual = name.endswith(("attention.output", "feedforward.output"))
            nn.init.normal_(module.weight, std=0.02 / (2 * model.options.layers) ** 0.5 if residual else 0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    if not model.options.scale_embedding:  # with √D in front the table keeps N(0, 1/D)
        nn.init.normal_(model.target_embedding.table.weight, std=0.02)
