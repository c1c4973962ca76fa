"""A stack of layers with what they share: the relative bias, the rotation, and the final norm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from regard.nn.dropout import Dropout
from regard.nn.layers import Layer, TransformerLayer
from regard.nn.layout import Layout
from regard.nn.multihead import KeyValueCache
from regard.nn.norm import Norm
from regard.nn.positions import NoPositions, Positions
from regard.nn.sequences import Memory
from regard.nn.slots import CacheShape


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Spec of a stack: its ``layers`` may differ, ``final_norm`` follows the last one (pre-norm stacks need it).

    ``final_dropout`` follows the final norm, as in T5.
    """

    layers: tuple[Layer, ...]
    positions: Positions = field(default=NoPositions())
    causal: bool = False
    final_norm: Norm | None = None
    final_dropout: float = 0.0

    def build(self, width: int) -> TransformerStack:
        return TransformerStack(self, width)


class TransformerStack(nn.Module):
    """Layers one after another, [B, T, D] → [B, T, D]; bias and rotation are computed once and shared by all."""

    def __init__(self, spec: Stack, width: int) -> None:
        super().__init__()
        self.spec = spec
        self.layers = nn.ModuleList(layer.build(width) for layer in spec.layers)
        attention = spec.layers[0].attention
        self.bias = spec.positions.build_bias(attention.heads, spec.causal)
        self.rotation = spec.positions.build_rotation(attention.width_of_head(width))
        self.norm = None if spec.final_norm is None else spec.final_norm.build(width)
        self.dropout = Dropout(spec.final_dropout)

    @property
    def cache_shapes(self) -> list[CacheShape]:
        """The shape of each layer's cache in decoding."""
        layers = [layer for layer in self.layers if isinstance(layer, TransformerLayer)]
        return [layer.self_attention.cache_shape for layer in layers]

    def forward(
        self,
        x: Tensor,
        layout: Layout,
        *,
        memory: Tensor | Sequence[tuple[Tensor, Tensor]] | None = None,
        memory_layout: Layout | None = None,
        caches: Sequence[KeyValueCache] | None = None,
        live: Tensor | None = None,
    ) -> Tensor:
        """x [B, Q, D] → [B, Q, D]; with a packed layout layers compute on real tokens alone, and padding becomes 0.

        ``memory`` is [B, S, D], or each layer's keys and values. With ``caches``, one for each layer, the keys of
        self-attention are those of the layout's ``key_positions`` [B, slots]. ``live`` [R] lists the hypotheses, of
        B · Q, whose results are read: this stack computes all, the compiled one of accel/stack.py only these.
        """
        size = x.shape[1]
        keys = size if layout.key_positions is None else layout.key_positions.shape[1]
        bias = None if self.bias is None else self.bias(size, keys, layout, x.device)
        positions = layout.positions if layout.packing is None else layout.packing.positions()
        rotation = None if self.rotation is None else self.rotation(size, positions, x.device)
        if layout.packing is not None:
            x = layout.packing.pack(x)  # [1, R, D]
        if isinstance(memory, Tensor) and memory_layout is not None and memory_layout.key_packing is not None:
            memory = memory_layout.key_packing.pack(memory)
        for number, layer in enumerate(self.layers):
            x = layer(
                x,
                layout,
                memory=memory if memory is None or isinstance(memory, Tensor) else memory[number],
                memory_layout=memory_layout,
                bias=bias,
                rotation=rotation,
                cache=None if caches is None else caches[number],
            )
        x = self.dropout(x if self.norm is None else self.norm(x))
        return x if layout.packing is None else layout.packing.unpack(x)

    def project_memory(self, memory: Memory, dtype: torch.dtype | None = None) -> list[tuple[Tensor, Tensor]]:
        """Each layer's keys and values of a memory, [B, G, S, K]: contiguous, since every step reads them.

        They are cast to ``dtype``; None: they keep their type.
        """
        pairs = []
        for layer in self.layers:
            assert isinstance(layer, TransformerLayer) and layer.cross_attention is not None
            key, value = layer.cross_attention.project_memory(memory.hidden)
            key, value = (x.new_empty(x.shape, dtype=dtype or x.dtype).copy_(x) for x in (key, value))
            pairs.append((key, value))
        return pairs
