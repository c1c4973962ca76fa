"""The models that the suite runs over: a new architecture gets all of it from one line here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from regard.accel.prepared import Prepared, prepare
from regard.models import registry
from regard.nn.dropout import Dropout
from regard.nn.multihead import Core
from regard.nn.sequences import Memory, Tokens

torch.set_num_threads(1)

V = 29
HEAD_WIDTHS = 8, 16, 40  # narrower than a vector of the kernels, as wide as one, and no power of two
_BOTH: dict[str, Any] = {"encoder_layers": 2, "decoder_layers": 2}
_HEADS: dict[str, Any] = {"heads": 2, "feedforward": 32}
_TRANSFORMER: dict[str, Any] = {"architecture": "transformer", **_HEADS, **_BOTH}
_RELATIVE: dict[str, Any] = {"kind": "relative_bias", "buckets": 8, "distance": 16}
_T5: dict[str, Any] = {**_TRANSFORMER, "order": "pre", "norm": "rms_norm", "bias": False, "scale": 0.5,
                       "scale_embedding": False, "positions": _RELATIVE, "final_dropout": 0.1}  # fmt: skip
_LLAMA: dict[str, Any] = {**_HEADS, "layers": 2, "norm": "rms_norm", "gated": True, "activation": "silu", "bias": False}
_BERT: dict[str, Any] = {"architecture": "encoder", **_HEADS, "layers": 2,
                         "positions": {"kind": "learned", "length": 32}}  # fmt: skip

#: Those without a width are built once for each of ``HEAD_WIDTHS``.
_ARRANGEMENTS: dict[str, dict[str, Any]] = {
    "transformer post": {**_TRANSFORMER, "order": "post"},
    "transformer pre": {**_TRANSFORMER, "order": "pre", "positions": "learned"},
    "relative bias": {**_TRANSFORMER, "order": "pre", "norm": "rms_norm", "share": "target",
                      "positions": _RELATIVE},
    "rotary": {**_TRANSFORMER, "positions": "rotary", "gated": True, "share": "none"},
    "grouped, wide heads": {**_TRANSFORMER, "width": 16, "key_value_heads": 1, "head_width": 12, "bias": "qkv",
                            "query_key_norm": "rms_norm", "scale": 0.3, "positions": "none"},
    "window": {**_TRANSFORMER, "width": 16, "window": 3, "positions": "rotary"},
    "alibi": {**_TRANSFORMER, "order": "pre", "positions": "alibi"},
    "rnn": {"architecture": "rnn", "width": 16, **_BOTH},
    "decoder-only": {"architecture": "decoder", **_HEADS, "layers": 2, "key_value_heads": 1},
    "decoder-only alibi": {"architecture": "decoder", "width": 48, "heads": 3, "feedforward": 32, "layers": 2,
                           "positions": "alibi"},
    "decoder-only window": {"architecture": "decoder", **_HEADS, "layers": 2, "width": 16, "window": 2, "head_width": 6,
                            "scale": 1.0, "query_key_norm": {"kind": "layer_norm", "bias": False}},
    "t5": {**_T5, "share": "all", "output_scale": 0.4},
    "t5 1.1": {**_T5, "width": 16, "share": "inputs", "gated": True, "activation": "gelu_tanh", "head_width": 12},
    "norm on embeddings": {**_TRANSFORMER, "width": 16, "embedding_norm": "rms_norm", "output_bias": True,
                           "positions": {"kind": "learned", "length": 64, "offset": 2}},
    "llama 3": {"architecture": "decoder", **_LLAMA, "tied": False, "key_value_heads": 1,
                "positions": {"kind": "rotary", "scaling": {"kind": "llama3", "original_length": 12}}},
    "linear scaling": {"architecture": "decoder", **_LLAMA, "width": 16,
                       "positions": {"kind": "rotary", "scaling": {"kind": "linear", "factor": 4.0}}},
    "bert": {**_BERT, "head": "masked_words"},
    "bert text labels": {**_BERT, "width": 16, "head": "text_labels", "labels": ["a", "b", "c"]},
    "mean of a text": {**_BERT, "width": 16, "head": {"kind": "text_labels", "pooling": "mean"}, "labels": ["a", "b"],
                       "segments": 0, "embedding_norm": None, "positions": "rotary", "order": "pre"},
    "bert token labels": {**_BERT, "width": 16, "head": "token_labels", "labels": ["a", "b", "c"]},
    "bert spans": {**_BERT, "width": 16, "head": "spans", "key_value_heads": 1, "positions": "alibi"},
    "no head": {**_BERT, "width": 16, "segments": 3},
}  # fmt: skip

MODELS: dict[str, dict[str, Any]] = {
    name if "width" in line else f"{name}, heads of {wide}": {"width": 2 * wide, **line}
    for name, line in _ARRANGEMENTS.items()
    for wide in (HEAD_WIDTHS[:1] if "width" in line else HEAD_WIDTHS)
}

#: Those that predict the next token, and those that give scores of labels.
GENERATING = [name for name, line in MODELS.items() if registry.capabilities(line["architecture"]).generates]
LABELLING = [name for name, line in MODELS.items() if line.get("head", "masked_words") != "masked_words"]


def build(name: str, vocabulary: int = V, dtype: torch.dtype = torch.float64) -> nn.Module:
    """The model with weights drawn wide, so that everything in it matters and no two tokens tie."""
    torch.manual_seed(0)
    model: nn.Module = registry.options_from(MODELS[name]).build(vocabulary)
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0, 1.6 / model.width**0.5)
    for module in model.modules():
        if "Norm" in type(module).__name__:
            nn.init.normal_(module.weight, 1, 0.2)
    return model.to(dtype).eval()


def without_dropout(model: nn.Module) -> None:
    """Training of the model draws no dropout from now on."""
    for module in model.modules():
        if isinstance(module, Dropout):
            module.p = 0.0
        elif isinstance(module, Core | nn.RNNBase):
            module.dropout = 0.0


def prepared(name: str, dtype: torch.dtype = torch.float32) -> Prepared:
    """The model in fp32 as it is prepared for decoding in ``dtype``; ``oracle`` gives the model."""
    model = build(name, dtype=torch.float32)
    found = prepare(model, dtype)
    _ORACLES[found] = model
    return found


_ORACLES: WeakKeyDictionary[nn.Module, nn.Module] = WeakKeyDictionary()


def oracle(model: nn.Module) -> nn.Module:
    """The model that a prepared one was made of; of another, itself."""
    return _ORACLES.get(model, model)


def sentences(lengths: Sequence[int], seed: int = 0, vocabulary: int = V) -> Tokens:
    """Random sentences of these lengths; the padding is random too, for nobody may look at it."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(4, vocabulary, (len(lengths), max(lengths)), generator=generator)
    return Tokens(ids, torch.tensor(list(lengths)))


def targets(model: nn.Module, lengths: Sequence[int], seed: int = 0) -> Tokens:
    """Random sentences for a model's target, each token in a random segment where the model has segments."""
    tokens = sentences(lengths, seed)
    count = model.target_embedding.spec.segments
    generator = torch.Generator().manual_seed(seed + 1)
    return replace(tokens, segments=torch.randint(count, tokens.ids.shape, generator=generator)) if count else tokens


def one(tokens: Tokens, b: int) -> Tokens:
    """Sentence b alone, without padding."""
    return tokens.some(torch.tensor([b]))


def result(model: nn.Module, target: Tokens, memory: Memory | None) -> Tensor:
    """The last numbers that a model gives: scores of labels or of tokens, or hidden states where it has neither."""
    if getattr(oracle(model), "head", None) is not None:
        labels: Tensor = model.label_scores(target)
        return labels
    hidden: Tensor = model(target, memory).hidden
    return model.logits(hidden) if oracle(model).has_scores else hidden


def memory_of(model: nn.Module, lengths: Sequence[int], seed: int = 1) -> Memory | None:
    """The memory of random sources, for a model that has sources."""
    return model.encode(sentences(lengths, seed)) if model.has_source else None


def alone(memory: Memory | None, b: int) -> Memory | None:
    """The memory of sentence b alone, without padding."""
    if memory is None:
        return None
    length = memory.lengths[b : b + 1]
    return Memory(memory.hidden[b : b + 1, : int(length)], length)


def close(got: Tensor, expected: Tensor, tolerance: float | None = None) -> None:
    """Relative difference: max|a - b| / max|b| of one tensor; by default that of its type."""
    tolerance = (1e-10 if expected.dtype == torch.float64 else 1e-4) if tolerance is None else tolerance
    assert got.shape == expected.shape
    difference = (got - expected).abs().max() / expected.abs().max()
    assert difference <= tolerance, f"relative difference {difference:.1e}"
