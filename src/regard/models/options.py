"""The options that all architectures of Transformer layers share, declared once, and the specs that they stand for.

An option's name is its key in ``config.json`` and in the ``[model]`` table; its help is what ``--help`` shows.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, replace
from typing import Any, Literal

from regard.nn.embedding import Embedding
from regard.nn.feedforward import Activation, FeedForward
from regard.nn.layers import Layer
from regard.nn.multihead import Attention
from regard.nn.norm import LayerNorm, Norm
from regard.nn.positions import Positions, Sinusoidal
from regard.nn.residual import Order
from regard.nn.stacks import Stack

LARGEST_SCALE = 1e6  #: of scores; far larger ones are no fp32 numbers


def option(default: Any, help: str) -> Any:
    """A field of a dataclass of options."""
    return dataclasses.field(default=default, metadata={"help": help})


def shared(name: str, default: Any, help: str = "") -> Any:
    """An option of ``StackOptions`` with another default, and with another help if there is one."""
    field = StackOptions.__dataclass_fields__[name]
    return option(default, help or field.metadata["help"])


@dataclass(frozen=True, kw_only=True)
class StackOptions:
    """The options of every architecture of Transformer layers; the defaults are the paper's base model."""

    width: int = option(512, "model width D")
    heads: int = option(8, "attention heads H")
    key_value_heads: int = option(0, "key-value heads G, a divisor of heads; 0: as many as heads")
    head_width: int = option(0, "width K of a head; 0: width / heads")
    feedforward: int = option(2048, "inner width F of the feed-forward network")
    dropout: float = option(0.1, "dropout on the output of each sub-layer")
    embedding_dropout: float | None = option(None, "dropout on embedding + position; not given: as dropout")
    activation_dropout: float = option(0.0, "dropout inside the feed-forward network")
    attention_dropout: float = option(0.0, "dropout on attention weights (slow on CPU)")
    positions: Positions = option(Sinusoidal(), "how the order of tokens enters")
    norm: Norm = option(LayerNorm(), "layer_norm or rms_norm")
    order: Order = option("post", "norm after the residual (post, the paper) or before (pre)")
    final_norm: bool | None = option(None, "a norm after the last layer; not given: in pre order only")
    activation: Activation = option("relu", "activation of the feed-forward network")
    gated: bool = option(False, "a gate in the feed-forward network (GLU)")
    bias: bool | Literal["qkv"] = option(
        True, 'biases in projections and feed-forward network; "qkv": on queries, keys and values alone'
    )
    scale: float | None = option(None, "factor of the scores q·k; not given: 1 / square root of a head's width")
    query_key_norm: Norm | None = option(
        None, "layer_norm or rms_norm on each head's queries and keys; not given: none"
    )
    window: int = option(0, "a query of self-attention sees only keys less than this many positions away; 0: all")
    scale_embedding: bool = option(True, "embeddings times the square root of the width")
    embedding_norm: Norm | None = option(None, "layer_norm or rms_norm on embedding + position; not given: none")

    def __post_init__(self) -> None:
        if self.width < 1 or self.heads < 1 or (not self.head_width and self.width % self.heads):
            raise ValueError(f"width={self.width} must be a multiple of heads={self.heads}")
        for field in dataclasses.fields(self):
            if field.name.endswith("layers") or field.name == "feedforward":
                at_least_one(self, field.name)
        if self.scale is not None and not 0 < self.scale <= LARGEST_SCALE:
            raise ValueError(f"scale={self.scale} must be more than 0, and at most {LARGEST_SCALE:g}")
        self.attention()  # its spec checks the other numbers

    @property
    def normed_at_the_end(self) -> bool:
        """Whether a norm stands after the last layer of each stack."""
        return self.order == "pre" if self.final_norm is None else self.final_norm

    def embedding(self, tied_to: Literal["source"] | None = None) -> Embedding:
        """The embedding of token ids."""
        return Embedding(
            positions=self.positions,
            norm=self.embedding_norm,
            factor=math.sqrt(self.width) if self.scale_embedding else 1.0,
            dropout=self.dropout if self.embedding_dropout is None else self.embedding_dropout,
            tied_to=tied_to,
        )

    def attention(self) -> Attention:
        """Every attention of the model; the window is that of self-attention."""
        return Attention(
            heads=self.heads,
            key_value_heads=self.key_value_heads,
            head_width=self.head_width,
            bias=self.bias,
            scale=self.scale,
            query_key_norm=self.query_key_norm,
            window=self.window,
            dropout=self.attention_dropout,
        )

    def stack(self, layers: int, *, causal: bool = False, cross: bool = False) -> Stack:
        """A stack of equal ``layers``; with ``cross`` they attend to a memory too."""
        attention = self.attention()
        layer = Layer(
            attention=attention,
            cross=replace(attention, window=0) if cross else None,
            feedforward=FeedForward(
                width=self.feedforward,
                activation=self.activation,
                gated=self.gated,
                bias=self.bias is True,
                dropout=self.activation_dropout,
            ),
            norm=self.norm,
            order=self.order,
            dropout=self.dropout,
        )
        return Stack(
            layers=(layer,) * layers,
            positions=self.positions,
            causal=causal,
            final_norm=self.norm if self.normed_at_the_end else None,
        )


def at_least_one(options: object, *names: str) -> None:
    """A ValueError that names an option below 1."""
    for name in names:
        if getattr(options, name) < 1:
            raise ValueError(f"{name}={getattr(options, name)} must be at least 1")
