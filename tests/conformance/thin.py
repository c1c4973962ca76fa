"""The models that the suite runs over: a new architecture gets all of it from one line here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from regard.models import registry
from regard.nn.sequences import Memory, Tokens

torch.set_num_threads(1)

V = 29
_SIZES: dict[str, Any] = {"width": 16, "heads": 2, "feedforward": 32}
_BOTH: dict[str, Any] = {"encoder_layers": 2, "decoder_layers": 2}

MODELS: dict[str, dict[str, Any]] = {
    "transformer post": {"architecture": "transformer", **_SIZES, **_BOTH, "order": "post"},
    "transformer pre": {"architecture": "transformer", **_SIZES, **_BOTH, "order": "pre", "positions": "learned"},
    "relative bias": {"architecture": "transformer", **_SIZES, **_BOTH, "order": "pre", "norm": "rms_norm",
                      "positions": {"kind": "relative_bias", "buckets": 8, "distance": 16}, "share": "target"},
    "rotary": {"architecture": "transformer", **_SIZES, **_BOTH, "positions": "rotary", "gated": True, "share": "none"},
    "grouped, wide heads": {"architecture": "transformer", **_SIZES, **_BOTH, "key_value_heads": 1, "head_width": 12,
                            "bias": "qkv", "query_key_norm": "rms_norm", "scale": 0.3},
    "window": {"architecture": "transformer", **_SIZES, **_BOTH, "window": 3, "positions": "rotary"},
    "rnn": {"architecture": "rnn", "width": 16, **_BOTH},
    "decoder-only": {"architecture": "decoder", **_SIZES, "layers": 2, "key_value_heads": 1},
    "decoder-only window": {"architecture": "decoder", **_SIZES, "layers": 2, "window": 2, "head_width": 6,
                            "scale": 1.0, "query_key_norm": {"kind": "layer_norm", "bias": False}},
}  # fmt: skip


def build(name: str, vocabulary: int = V, dtype: torch.dtype = torch.float64) -> nn.Module:
    """The model with weights drawn wide, so that everything in it matters and no two tokens tie."""
    torch.manual_seed(0)
    model: nn.Module = registry.options_from(MODELS[name]).build(vocabulary)
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0, 0.4)
    for module in model.modules():
        if "Norm" in type(module).__name__:
            nn.init.normal_(module.weight, 1, 0.2)
    return model.to(dtype).eval()


def sentences(lengths: Sequence[int], seed: int = 0, vocabulary: int = V) -> Tokens:
    """Random sentences of these lengths; the padding is random too, for nobody may look at it."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(4, vocabulary, (len(lengths), max(lengths)), generator=generator)
    return Tokens(ids, torch.tensor(list(lengths)))


def one(tokens: Tokens, b: int) -> Tokens:
    """Sentence b alone, without padding."""
    length = tokens.lengths[b : b + 1]
    return Tokens(tokens.ids[b : b + 1, : int(length)], length)


def memory_of(model: nn.Module, lengths: Sequence[int], seed: int = 1) -> Memory | None:
    """The memory of random sources, for a model that has sources."""
    return model.encode(sentences(lengths, seed)) if model.has_source else None


def alone(memory: Memory | None, b: int) -> Memory | None:
    """The memory of sentence b alone, without padding."""
    if memory is None:
        return None
    length = memory.lengths[b : b + 1]
    return Memory(memory.hidden[b : b + 1, : int(length)], length)


def close(got: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    """Relative difference: max|a - b| / max|b| of one tensor."""
    assert got.shape == expected.shape
    difference = (got - expected).abs().max() / expected.abs().max()
    assert difference <= tolerance, f"relative difference {difference:.1e}"
