"""Writes our Transformer as a model directory of CTranslate2.

CTranslate2 gets ids, not text: the pieces of its vocabulary are the numbers of our ids.
"""

from __future__ import annotations

import importlib
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from regard.errors import RegardError
from regard.models.bodies import EncoderDecoder
from regard.models.contract import Model
from regard.models.transformer import Transformer
from regard.nn.layers import TransformerLayer
from regard.nn.multihead import Attention, MultiHeadAttention
from regard.nn.norm import LayerNorm
from regard.nn.positions import Learned, LearnedPositions, Sinusoidal, sinusoids
from regard.nn.stacks import TransformerStack
from regard.text.settings import TextSettings

#: The options that ``write`` writes or ``_checked`` checks, and those that matter in training alone. Every other
#: option, one that is added later too, must have its default.
KNOWN = {
    "width", "encoder_layers", "decoder_layers", "heads", "feedforward", "activation", "gated", "order", "final_norm",
    "scale_embedding", "share", "output_bias", "positions", "norm", "bias", "key_value_heads", "head_width", "scale",
    "query_key_norm", "window", "dropout", "embedding_dropout", "activation_dropout", "attention_dropout",
    "final_dropout",
}  # fmt: skip
POSITIONS = 4096  # sinusoids that are written; of learned positions all are


def library() -> Any:
    """The ctranslate2 package."""
    try:
        return importlib.import_module("ctranslate2")
    except ImportError:
        raise RegardError("CTranslate2 is not installed: pip install 'regard[ctranslate2]'") from None


def write(model: Model, settings: TextSettings, folder: Path) -> None:
    """Write a model directory of CTranslate2, in fp32; CTranslate2 converts the weights when it loads them."""
    library()
    options = _checked(model)
    _check_marks(settings)
    assert isinstance(model, EncoderDecoder)
    specs = importlib.import_module("ctranslate2.specs")
    common = importlib.import_module("ctranslate2.specs.common_spec")
    activation = {
        "relu": common.Activation.RELU,
        "gelu": common.Activation.GELU,
        "gelu_tanh": common.Activation.GELUTanh,
        "silu": common.Activation.SWISH,
    }
    spec = specs.TransformerSpec.from_config(
        (options.encoder_layers, options.decoder_layers),
        options.heads,
        pre_norm=options.order == "pre",
        no_final_norm=options.order == "pre" and not options.normed_at_the_end,
        activation=activation[options.activation],
        ffn_glu=options.gated,
    )
    spec.encoder.embeddings[0].weight = _array(model.source_embedding.table.weight)
    spec.decoder.embeddings.weight = _array(model.target_embedding.table.weight)
    embedding: Any
    for stack, embedding, into in (
        (model.encoder, model.source_embedding, spec.encoder),
        (model.decoder, model.target_embedding, spec.decoder),
    ):
        into.scale_embeddings = options.scale_embedding
        added = embedding.positions
        if isinstance(added, LearnedPositions):
            into.position_encodings.encodings = _array(added.weight)
        else:
            interleaved = options.positions.interleaved
            into.position_encodings.encodings = _array(sinusoids(POSITIONS, options.width, interleaved))
        _stack(stack, into)
    weight, bias = model.output_table()
    spec.decoder.projection.weight = _array(weight)
    if bias is not None:
        spec.decoder.projection.bias = _array(bias)
    spec.register_source_vocabulary([str(token) for token in range(len(model.source_embedding.table.weight))])
    spec.register_target_vocabulary([str(token) for token in range(len(weight))])
    # The first mark of a target is CTranslate2's; the others are a prefix, which decoding/ctranslate2.py gives.
    spec.config.bos_token = spec.config.decoder_start_token = str(settings.start[0])
    spec.config.eos_token, spec.config.unk_token = str(settings.ends[0]), str(settings.unk)
    spec.validate()
    spec.optimize(quantization=None)
    folder.mkdir(parents=True)
    spec.save(str(folder))


def _checked(model: Model) -> Any:
    """The options of a model that CTranslate2 can hold; else an error that names what it cannot."""
    options = model.options if type(model) is EncoderDecoder else None
    # Exactly these classes: what is derived from them may compute something else.
    if type(model) is not EncoderDecoder or type(options) is not Transformer:
        raise RegardError("CTranslate2 runs models of architecture transformer only: use regard's own engine")
    if not isinstance(options.positions, Sinusoidal | Learned):
        raise RegardError("CTranslate2 cannot hold this model: positions would have to be sinusoidal or learned")
    if isinstance(options.positions, Learned) and options.positions.offset:
        raise RegardError("CTranslate2 cannot hold this model: offset would have to be 0")
    for field in fields(options):
        if field.name not in KNOWN and getattr(options, field.name) != field.default:
            raise RegardError(f"CTranslate2 cannot hold this model: {field.name} would have to be {field.default}")
    if options.norm != LayerNorm(eps=1e-5):
        raise RegardError("CTranslate2 cannot hold this model: norm would have to be a layer norm with eps 1e-5")
    if options.order == "post" and options.normed_at_the_end:
        raise RegardError("CTranslate2 cannot hold this model: a post-norm stack may have no final norm")
    attention = options.attention()
    if attention.key_value_heads == attention.heads:
        attention = replace(attention, key_value_heads=0)
    if attention.head_width * attention.heads == options.width:
        attention = replace(attention, head_width=0)
    if attention.bias == "qkv":
        raise RegardError("CTranslate2 cannot hold this model: bias would have to be True or False")
    held = Attention(heads=options.heads, bias=attention.bias, dropout=attention.dropout)
    for field in fields(held):
        value = getattr(held, field.name)
        if getattr(attention, field.name) != value:
            raise RegardError(f"CTranslate2 cannot hold this model: {field.name} would have to be {value}")
    for name, module in model.named_modules():
        if name.endswith("_attention") and type(module) is not MultiHeadAttention:
            raise RegardError(f"CTranslate2 cannot hold this model: {name} would have to be MultiHeadAttention")
    return options


def _check_marks(settings: TextSettings) -> None:
    if not settings.start or len(settings.ends) != 1:
        raise RegardError(
            f"CTranslate2 cannot hold this model: start = {list(settings.start)}, ends = {list(settings.ends)}: "
            "expected a start mark and one end mark"
        )
    if settings.suppressed_first:
        raise RegardError("CTranslate2 cannot hold this model: it has ids that may not be the first of an output")


def _stack(stack: TransformerStack, into: Any) -> None:
    for layer, theirs in zip(stack.layers, into.layer, strict=True):
        assert isinstance(layer, TransformerLayer)
        attention = layer.self_attention
        _linear(attention.query_key_value, theirs.self_attention.linear[0])
        _attention_end(attention, layer.self_attention_residual.norm, theirs.self_attention)
        if layer.cross_attention is not None and layer.cross_attention_residual is not None:
            _linear(layer.cross_attention.query, theirs.attention.linear[0])
            _linear(layer.cross_attention.key_value, theirs.attention.linear[1])
            _attention_end(layer.cross_attention, layer.cross_attention_residual.norm, theirs.attention)
        inner = layer.feedforward
        _norm(layer.feedforward_residual.norm, theirs.ffn.layer_norm)
        # With a gate CTranslate2 computes activation(linear_0) · linear_0_noact.
        _linear(inner.input if inner.gate is None else inner.gate, theirs.ffn.linear_0)
        if inner.gate is not None:
            _linear(inner.input, theirs.ffn.linear_0_noact)
        _linear(inner.output, theirs.ffn.linear_1)
    if stack.norm is not None:
        _norm(stack.norm, into.layer_norm)


def _attention_end(attention: MultiHeadAttention, norm: nn.Module, into: Any) -> None:
    _linear(attention.output, into.linear[-1])
    _norm(norm, into.layer_norm)


def _linear(linear: nn.Linear, into: Any) -> None:
    into.weight = _array(linear.weight)
    if linear.bias is not None:
        into.bias = _array(linear.bias)


def _norm(norm: nn.Module, into: Any) -> None:
    assert isinstance(norm, nn.LayerNorm)
    into.gamma = _array(norm.weight)
    into.beta = _array(norm.bias if norm.bias is not None else torch.zeros_like(norm.weight))


def _array(tensor: Tensor) -> Any:
    return tensor.detach().to("cpu", torch.float32).contiguous().numpy()
