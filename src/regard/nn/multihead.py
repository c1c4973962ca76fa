"""Multi-head attention (section 3.2.2): projections around a core.

``MultiHeadAttention`` is one class for self-attention, causal self-attention and attention to a memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from regard.nn import kernels
from regard.nn.attention import attention_weights
from regard.nn.layout import Layout
from regard.nn.linear import Linear
from regard.nn.norm import Norm
from regard.nn.ops import Operation
from regard.nn.slots import CacheShape


class Core(nn.Module):
    """Scaled dot-product attention as a module without parameters: hooks see its inputs and outputs.

    ``window``: a query sees only keys less than ``window`` positions away; 0: all keys.
    """

    def __init__(self, dropout: float = 0.0, window: int = 0) -> None:
        super().__init__()
        self.dropout, self.window = dropout, window

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        layout: Layout,
        *,
        bias: Tensor | None = None,
        scale: float | None = None,
    ) -> Tensor:
        """[B, H, Q, K], [B, G, S, K], [B, G, S, Kv] → [B, H, Q, Kv], by the fastest kernel that fits.

        Where the layout is packed, queries are [1, H, R, K], and likewise keys and values.
        """
        dropout = self.dropout if self.training else 0.0
        layout = self._with_window(query, key, layout)
        return kernels.attention(query, key, value, layout, bias=bias, scale=scale, dropout=dropout)

    def weights(
        self, query: Tensor, key: Tensor, layout: Layout, *, bias: Tensor | None = None, scale: float | None = None
    ) -> Tensor:
        """The weights [B, H, Q, S] of a call, for the recorder; ``forward`` need not make them."""
        layout = self._with_window(query, key, layout)
        query, key, _ = kernels.padded_heads(query, key, key, layout)
        return attention_weights(query, key, layout.padded_rows(), bias=bias, scale=scale)

    def _with_window(self, query: Tensor, key: Tensor, layout: Layout) -> Layout:
        if not self.window:
            return layout
        queries = query.shape[-2] if layout.packing is None else layout.packing.size
        keys = key.shape[-2] if layout.key_packing is None else layout.key_packing.size
        return layout.within(self.window, queries, keys, query.device)


class KeyValueCache(Protocol):
    """A layer's cache in decoding: ``append`` stores new keys and values, and returns all to attend to (states.py)."""

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]: ...


class Rotation(Protocol):
    """Rotates queries or keys by their positions (rotary.py)."""

    def __call__(self, heads: Tensor) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class Attention:
    """Spec of ``MultiHeadAttention``.

    ``heads`` query heads H; ``key_value_heads`` G of keys and values (0: H); ``head_width`` K (0: width / heads).
    ``bias`` "qkv": on queries, keys and values and not on the output. ``scale`` of the scores (None: 1 / √K).
    ``query_key_norm`` normalises each head's queries and keys. ``window``: see ``Core``; self-attention only.
    ``dropout`` is on the attention weights and 0 by default, as in the paper: no fused CPU kernel takes it.
    """

    heads: int
    key_value_heads: int = 0
    head_width: int = 0
    bias: bool | Literal["qkv"] = True
    scale: float | None = None
    query_key_norm: Norm | None = None
    window: int = 0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.heads < 1 or self.key_value_heads < 0 or (self.key_value_heads and self.heads % self.key_value_heads):
            raise ValueError(f"heads={self.heads} must be a multiple of key_value_heads={self.key_value_heads}")
        for name in ("head_width", "window"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 0")

    def width_of_head(self, width: int) -> int:
        """The width K of a head in a model of a ``width``."""
        if not self.head_width and width % self.heads:
            raise ValueError(f"width={width} must be a multiple of heads={self.heads}")
        return self.head_width or width // self.heads

    def build(self, width: int, memory_width: int | None = None) -> MultiHeadAttention:
        """The module for a model ``width``; ``memory_width`` makes it attention to a memory of that width."""
        return MultiHeadAttention(self, width, memory_width)


class MultiHeadAttention(nn.Module):
    """Section 3.2.2: project to h heads, attend in each, join and project again.

    Self-attention (causal or not: the layout says) makes queries, keys and values in one product, attention to a
    memory makes keys and values in one. Files hold separate matrices: ``query``, ``key``, ``value``, ``output``.
    """

    def __init__(self, spec: Attention, width: int, memory_width: int | None = None) -> None:
        super().__init__()
        self.spec = spec
        self.heads, self.groups = spec.heads, spec.key_value_heads or spec.heads
        self.head_width = spec.width_of_head(width)
        query_rows, key_rows = self.heads * self.head_width, self.groups * self.head_width
        self.cross = memory_width is not None
        bias = bool(spec.bias)
        if memory_width is None:
            self.query_key_value = Linear(width, query_rows + 2 * key_rows, bias=bias)
        else:
            self.query = Linear(width, query_rows, bias=bias)
            self.key_value = Linear(memory_width, 2 * key_rows, bias=bias)
        norm = spec.query_key_norm
        self.query_norm = None if norm is None else norm.build(self.head_width)
        self.key_norm = None if norm is None else norm.build(self.head_width)
        self.core = Core(spec.dropout, 0 if self.cross else spec.window)
        self.output = Linear(query_rows, width, bias=spec.bias is True)
        self._sizes = {
            "query_key_value": {"query": query_rows, "key": key_rows, "value": key_rows},
            "key_value": {"key": key_rows, "value": key_rows},
        }
        self.register_state_dict_post_hook(_split_on_save)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_join_on_load)  # type: ignore[no-untyped-call]

    def forward(
        self,
        x: Tensor,
        layout: Layout,
        *,
        memory: Tensor | tuple[Tensor, Tensor] | None = None,
        bias: Tensor | None = None,
        rotation: Rotation | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """x [B, Q, D] → [B, Q, D]; ``memory`` [B, S, D], or its keys and values from ``project_memory``.

        Where the layout is packed, x is [1, R, D], and a packed memory [1, R', D].
        """
        if memory is None:
            query, key, value = split_heads(self.query_key_value(x), (self.heads, self.groups, self.groups))
            key = self._normed(self.key_norm, key)
        else:
            (query,) = split_heads(self.query(x), (self.heads,))
            key, value = memory if isinstance(memory, tuple) else self.project_memory(memory)
        query = self._normed(self.query_norm, query)
        if rotation is not None:
            query, key = rotation(query), rotation(key)
        if cache is not None:
            key, value = cache.append(key, value)
        mixed = self.core(query, key, value, layout, bias=bias, scale=self.spec.scale)  # [B, H, Q, K]
        joined: Tensor = self.output(mixed.transpose(1, 2).flatten(2))  # of [B, Q, H · K]
        return joined

    def project_memory(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of a memory [B, S, D], each [B, G, S, K]: once per sentence, not per hypothesis."""
        key, value = split_heads(self.key_value(memory), (self.groups, self.groups))
        return self._normed(self.key_norm, key), value

    def _normed(self, norm: nn.Module | None, heads: Tensor) -> Tensor:
        """[B, H, Q, K] → the same, each head normalised."""
        return heads if norm is None else norm(heads)

    def joined(self) -> tuple[nn.Linear, list[int]]:
        """The layer that makes (queries,) keys and values in one product, and how many rows of its weight make each."""
        name = "key_value" if self.cross else "query_key_value"
        return getattr(self, name), list(self._sizes[name].values())

    @property
    def cache_shape(self) -> CacheShape:
        """The shape of the cache of each position in decoding."""
        return CacheShape(self.groups, key=self.head_width, value=self.head_width)

    def matrices(self) -> tuple[Tensor, ...]:
        """Query, key and value matrices one by one, as views: for initialisation and pruning."""
        layer, rows = self.joined()
        return torch.split(layer.weight, rows)

    def extra_repr(self) -> str:
        return f"heads={self.heads}, key_value_heads={self.groups}, cross={self.cross}"


def _split_heads(x: Tensor, counts: Sequence[int]) -> tuple[Tensor, ...]:
    """x [B, Q, (Σ counts) · K] → a view [B, count, Q, K] for each count.

    The split comes first, so that the backward pass joins the gradients once, in the order that the product reads.
    """
    parts = torch.split(x.view(*x.shape[:2], sum(counts), x.shape[2] // sum(counts)), list(counts), dim=2)
    return tuple(part.transpose(1, 2) for part in parts)


split_heads = Operation(_split_heads)


def _split_on_save(module: nn.Module, state: dict[str, Any], prefix: str, _metadata: Any) -> None:
    """Saves the joined matrix as the paper's separate ones: query, key and value."""
    for joined, sizes in module._sizes.items():  # type: ignore[union-attr, operator]
        for kind in ("weight", "bias"):
            tensor = state.pop(f"{prefix}{joined}.{kind}", None)
            if tensor is not None:
                for name, part in zip(sizes, tensor.split(list(sizes.values())), strict=True):
                    state[f"{prefix}{name}.{kind}"] = part


def _join_on_load(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Joins the separate matrices of a file to the one in memory."""
    joined = "key_value" if module.cross else "query_key_value"
    sizes: dict[str, int] = module._sizes[joined]  # type: ignore[index, assignment]
    for kind in ("weight", "bias"):
        names = [f"{prefix}{name}.{kind}" for name in sizes]
        if all(name in state for name in names):
            state[f"{prefix}{joined}.{kind}"] = torch.cat([state.pop(name) for name in names])
