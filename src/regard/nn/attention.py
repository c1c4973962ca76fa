"""Attention: the equation, the cores that carry it, and the projections that stand around them (section 3.2).

``attend`` is the paper's equation (1) written out; the fast kernels of kernels.py are compared with it. A core is a
module without parameters, so that whoever wants to look can hook it; ``MultiHeadAttention`` is one class for
self-attention, causal self-attention and attention to a memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from regard.accel import varlen
from regard.accel.linear import Linear
from regard.nn.dropout import dropped
from regard.nn.layout import Layout, Packing


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: Layout,
    *,
    bias: Tensor | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Equation (1), Attention(Q, K, V) = softmax(QKᵀ / √d_k) V, in plain sight: the reference of every kernel.

    query [B, H, Q, K], key [B, G, S, K], value [B, G, S, Kv], bias broadcastable to [B, H, Q, S] → [B, H, Q, Kv].
    H is a multiple of G. A query that may attend to nothing gets zeros.
    """
    weights = attention_weights(query, key, layout, bias=bias, scale=scale)
    value = _per_query_head(value, query.shape[1])
    return (dropped(weights, dropout) if dropout else weights).to(value.dtype) @ value


def attention_weights(
    query: Tensor, key: Tensor, layout: Layout, *, bias: Tensor | None = None, scale: float | None = None
) -> Tensor:
    """The weights of equation (1), [B, H, Q, S], in at least fp32: a row that sees nothing is 0."""
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = (query * scale) @ _per_query_head(key, query.shape[1]).transpose(-2, -1)  # [B, H, Q, S]
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if bias is not None:
        scores = scores + bias
    return _softmax(scores, layout)


def _softmax(scores: Tensor, layout: Layout) -> Tensor:
    """Weights of scores [B, H, Q, S] over the keys that the layout lets each query see."""
    allowed = layout.allowed(scores.shape[-2], scores.shape[-1], scores.device)
    if allowed is None:
        return scores.softmax(-1)
    weights = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min).softmax(-1)
    return weights.masked_fill(~allowed, 0.0)  # rows that see nothing: zeros, and no NaN on the way back


def _per_query_head(tensor: Tensor, heads: int) -> Tensor:
    """[B, G, S, K] → [B, H, S, K]: each key–value head serves H / G query heads that stand side by side."""
    groups = tensor.shape[1]
    return tensor if groups == heads else tensor.repeat_interleave(heads // groups, dim=1)


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
        from regard.nn import kernels  # here, because kernels.py takes the reference from this file

        dropout = self.dropout if self.training else 0.0
        return kernels.choose(query, key, value, layout, bias=bias, dropout=dropout)(
            query, key, value, layout, bias=bias, scale=scale, dropout=dropout
        )

    def weights(
        self, query: Tensor, key: Tensor, layout: Layout, *, bias: Tensor | None = None, scale: float | None = None
    ) -> Tensor:
        """The weights [B, H, Q, S] behind a recorded call, computed beside the forward."""
        return attention_weights(query, key, layout, bias=bias, scale=scale)


class AdditiveCore(nn.Module):
    """Additive attention (Bahdanau et al. 2015) with the same face: score(q, k) = vᵀ tanh(q + k).

    The projections stand outside, as everywhere: q and k come projected, and v as ``vector``.
    """

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        layout: Layout,
        *,
        vector: Tensor,
        bias: Tensor | None = None,
        scale: float | None = None,
    ) -> Tensor:
        """query [B, H, Q, K], key [B, H, S, K], value [B, H, S, Kv], vector [K] → [B, H, Q, Kv]."""
        weights = self.weights(query, key, layout, vector=vector, bias=bias, scale=scale)
        return weights.to(value.dtype) @ value

    def weights(
        self,
        query: Tensor,
        key: Tensor,
        layout: Layout,
        *,
        vector: Tensor,
        bias: Tensor | None = None,
        scale: float | None = None,
    ) -> Tensor:
        """softmax over the keys of vᵀ tanh(q + k), [B, H, Q, S]."""
        mixed = torch.tanh(query[..., :, None, :] + key[..., None, :, :])  # [B, H, Q, S, K]
        scores = (mixed @ vector).to(torch.promote_types(query.dtype, torch.float32))
        scores = scores if scale is None else scores * scale
        return _softmax(scores if bias is None else scores + bias, layout)


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
