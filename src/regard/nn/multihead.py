"""Multi-head attention (section 3.2.2): the projections that stand around a core."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from regard.accel import varlen
from regard.accel.linear import Linear
from regard.nn import kernels
from regard.nn.attention import attention_weights
from regard.nn.layout import Layout
from regard.nn.packing import Packing
from regard.nn.slots import CacheShape


class Core(nn.Module):
    """Scaled dot-product attention as a module without parameters: its inputs and outputs can be hooked."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = dropout

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
        """[B, H, Q, K], [B, G, S, K], [B, G, S, Kv] → [B, H, Q, Kv], by the fastest kernel that fits."""

        dropout = self.dropout if self.training else 0.0
        return kernels.choose(query, key, value, layout, bias=bias, dropout=dropout)(
            query, key, value, layout, bias=bias, scale=scale, dropout=dropout
        )

    def weights(
        self, query: Tensor, key: Tensor, layout: Layout, *, bias: Tensor | None = None, scale: float | None = None
    ) -> Tensor:
        """The weights [B, H, Q, S] behind a recorded call, computed beside the forward."""
        return attention_weights(query, key, layout, bias=bias, scale=scale)


class KeyValueCache(Protocol):
    """Where a decoding step puts its keys and values, and gets back all that were ever put (states.py)."""

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]: ...


class Rotation(Protocol):
    """What positions do to queries and keys where they are rotated (positions.py)."""

    def __call__(self, heads: Tensor) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class Attention:
    """Spec of ``MultiHeadAttention``: ``heads`` query heads, ``key_value_heads`` of keys and values (0 = as many).

    ``dropout`` is on the attention weights and 0 by default, as in the paper: no fused CPU kernel takes it.
    """

    heads: int
    key_value_heads: int = 0
    bias: bool = True
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.heads < 1 or self.key_value_heads < 0 or (self.key_value_heads and self.heads % self.key_value_heads):
            raise ValueError(f"heads={self.heads} must be a multiple of key_value_heads={self.key_value_heads}")

    def build(self, width: int, memory_width: int | None = None) -> MultiHeadAttention:
        """The module for a model ``width``; ``memory_width`` makes it attention to a memory of that width."""
        if width % self.heads:
            raise ValueError(f"width={width} must be a multiple of heads={self.heads}")
        return MultiHeadAttention(self, width, memory_width)


class MultiHeadAttention(nn.Module):
    """Section 3.2.2: h heads of width D / h, projected, attended to, joined and projected again.

    Self-attention (causal or not: the layout says) makes queries, keys and values in one product, attention to a
    memory makes keys and values in one. On disk they are apart: ``query``, ``key``, ``value``, ``output``.
    """

    def __init__(self, spec: Attention, width: int, memory_width: int | None = None) -> None:
        super().__init__()
        self.spec = spec
        self.heads, self.groups = spec.heads, spec.key_value_heads or spec.heads
        self.head_width = width // spec.heads
        grouped = self.groups * self.head_width
        self.cross = memory_width is not None
        if memory_width is None:
            self.query_key_value = Linear(width, width + 2 * grouped, bias=spec.bias)
        else:
            self.query = Linear(width, width, bias=spec.bias)
            self.key_value = Linear(memory_width, 2 * grouped, bias=spec.bias)
        self.core = Core(spec.dropout)
        self.output = Linear(width, width, bias=spec.bias)
        self._sizes = {
            "query_key_value": {"query": width, "key": grouped, "value": grouped},
            "key_value": {"key": grouped, "value": grouped},
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

        Where the layout is packed, x is [R, D] and comes back so, and ``memory`` is [R', D].
        """
        packing = layout.packing
        plain = bias is None and rotation is None and cache is None and not isinstance(memory, tuple)
        mixed: Tensor
        if plain and (mix := varlen.choose(self, x, layout)):
            query = self.query_key_value(x) if memory is None else self.query(x)
            key_value = None if memory is None else self.key_value(memory)
            mixed = mix(query, key_value, layout, self.heads, self.groups)
        else:
            if memory is not None:
                (query,) = self._heads(self.query(x), packing, self.heads)
                key, value = self.project_memory(memory, layout.key_packing) if isinstance(memory, Tensor) else memory
            else:
                query, key, value = self._project(x, packing, rotation)
                if cache is not None:
                    key, value = cache.append(key, value)
            mixed = self.core(query, key, value, layout, bias=bias)  # [B, H, Q, K]
            mixed = mixed.transpose(1, 2).flatten(2) if packing is None else packing.join_heads(mixed)
        joined: Tensor = self.output(mixed)  # of [B, Q, H · K] or [R, …]
        return joined

    def project_memory(self, memory: Tensor, packing: Packing | None = None) -> tuple[Tensor, Tensor]:
        """Keys and values of a memory [B, S, D], each [B, G, S, K]: once per sentence, whatever the beam does."""
        key, value = self._heads(self.key_value(memory), packing, self.groups, self.groups)
        return key, value

    def _project(self, x: Tensor, packing: Packing | None, rotation: Rotation | None) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = self._heads(self.query_key_value(x), packing, self.heads, self.groups, self.groups)
        if rotation is not None:
            query, key = rotation(query), rotation(key)
        return query, key, value

    def _heads(self, x: Tensor, packing: Packing | None, *counts: int) -> tuple[Tensor, ...]:
        """[B, Q, (Σ counts) · K] → a view [B, count, Q, K] for each count; copies where it is packed, [R, …].

        Split first, transposed then: so the gradients are joined once, and lie as the product before wants them.
        """
        if packing is not None:
            return packing.split_heads(x, counts, self.head_width)
        parts = torch.split(x.view(*x.shape[:-1], -1, self.head_width), list(counts), dim=2)
        return tuple(part.transpose(1, 2) for part in parts)

    def joined(self) -> tuple[nn.Linear, list[int]]:
        """The layer that makes several things in one product, and the rows of each: (queries,) keys, values."""
        name = "key_value" if self.cross else "query_key_value"
        return getattr(self, name), list(self._sizes[name].values())

    @property
    def cache_shape(self) -> CacheShape:
        """What a decoding step caches of each position."""
        return CacheShape(self.groups, key=self.head_width, value=self.head_width)

    def matrices(self) -> tuple[Tensor, ...]:
        """Query, key and value matrices one by one, as views: for whoever initialises or prunes them."""
        layer, rows = self.joined()
        return torch.split(layer.weight, rows)

    def extra_repr(self) -> str:
        return f"heads={self.heads}, key_value_heads={self.groups}, cross={self.cross}"


def _split_on_save(module: nn.Module, state: dict[str, Any], prefix: str, _metadata: Any) -> None:
    """Names on disk are those of the paper: one matrix in memory becomes query, key and value."""
    for joined, sizes in module._sizes.items():  # type: ignore[union-attr, operator]
        for kind in ("weight", "bias"):
            tensor = state.pop(f"{prefix}{joined}.{kind}", None)
            if tensor is not None:
                for name, part in zip(sizes, tensor.split(list(sizes.values())), strict=True):
                    state[f"{prefix}{name}.{kind}"] = part


def _join_on_load(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    joined = "key_value" if module.cross else "query_key_value"
    sizes: dict[str, int] = module._sizes[joined]  # type: ignore[index, assignment]
    for kind in ("weight", "bias"):
        names = [f"{prefix}{name}.{kind}" for name in sizes]
        if all(name in state for name in names):
            state[f"{prefix}{joined}.{kind}"] = torch.cat([state.pop(name) for name in names])
