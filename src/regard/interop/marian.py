"""Hugging Face's MarianMT (the OPUS-MT translators) as our Transformer, and back.

MarianMT is the paper's model with four peculiarities: all sines of the positions stand before all cosines, the logits
have a bias, post-norm stacks end without a further norm, and a target begins with the padding id, which is never
produced.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor

from regard import limits
from regard.errors import RegardError
from regard.interop.transforms import Entry, absent, constant, export_weights, import_weights, repeat, same, stack
from regard.models import registry
from regard.models.base import Share
from regard.models.bodies import EncoderDecoder
from regard.models.transformer import Transformer
from regard.nn.norm import LayerNorm
from regard.nn.positions import Sinusoidal, sinusoids
from regard.text.settings import TextSettings

ACTIVATIONS = {"relu": "relu", "gelu": "gelu", "gelu_new": "gelu_tanh", "silu": "silu", "swish": "silu"}

# config.json key → option, where the value is the same.
OPTIONS = {
    "d_model": "width",
    "encoder_layers": "encoder_layers",
    "decoder_layers": "decoder_layers",
    "encoder_attention_heads": "heads",
    "encoder_ffn_dim": "feedforward",
    "dropout": "dropout",
    "attention_dropout": "attention_dropout",
    "activation_dropout": "activation_dropout",
    "scale_embedding": "scale_embedding",
}
# Key of the encoder → key of the decoder, which must have the same value.
TWICE = {"encoder_attention_heads": "decoder_attention_heads", "encoder_ffn_dim": "decoder_ffn_dim"}

# Our options that every MarianMT model has.
FIXED: dict[str, Any] = {
    "positions": Sinusoidal(interleaved=False),
    "norm": LayerNorm(eps=1e-5),
    "order": "post",
    "final_norm": False,
    "gated": False,
    "bias": True,
    "key_value_heads": 0,
    "head_width": 0,
    "scale": None,
    "query_key_norm": None,
    "window": 0,
    "output_bias": True,
    "embedding_dropout": None,
}

# config.json key → its value where the file does not say: older files leave out what was the default then.
DEFAULTS: dict[str, Any] = {
    "dropout": 0.1,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "scale_embedding": False,
    "activation_function": "gelu",
    "share_encoder_decoder_embeddings": True,
    "tie_word_embeddings": True,
    "max_position_embeddings": 1024,
}


def options_from(config: Mapping[str, Any]) -> Transformer:
    """Our options from their ``config.json``."""
    values = _with_defaults(config)
    for key, other in TWICE.items():
        if values[key] != _get(values, other):
            raise RegardError(f"{key} = {values[key]} and {other} = {values[other]}: expected the same number")
    activation = values["activation_function"]
    if activation not in ACTIVATIONS:
        raise RegardError(f"activation_function = {activation!r}: expected one of {', '.join(ACTIVATIONS)}")
    options = {option: values[key] for key, option in OPTIONS.items()}
    ours = {**options, **FIXED, "activation": ACTIVATIONS[activation], "share": _share(values)}
    # The registry checks the type of each option and how large it is.
    return cast("Transformer", registry.options_from({"architecture": "transformer", **ours}))


def settings_from(
    config: Mapping[str, Any],
    generation: Mapping[str, Any] | None = None,
    *,
    unk: int = 1,
    source: str = "",
    target: str = "",
) -> TextSettings:
    """Our text settings from their ``config.json`` and ``generation_config.json``; ``unk`` is in their vocabulary."""
    values = {**_with_defaults(config), **(generation or {})}
    suppressed = values.get("bad_words_ids") or []
    if any(len(ids) != 1 for ids in suppressed):
        raise RegardError(f"bad_words_ids = {suppressed!r}: expected single ids; sequences cannot be suppressed")
    end = _get(values, "eos_token_id")
    start, penalty = _get(values, "decoder_start_token_id"), values.get("length_penalty")
    return TextSettings(
        pad=_get(values, "pad_token_id"),
        unk=unk,
        start=(start,),
        ends=(end,),
        source_after=(end,),
        suppressed=tuple(ids[0] for ids in suppressed),
        source=source,
        target=target,
        normalize=(),
        max_length=values["max_position_embeddings"] - 1,  # and the end mark
        length_penalty=f"power:{1.0 if penalty is None else penalty:g}",
    )


def vocabularies(config: Mapping[str, Any]) -> tuple[int, int | None]:
    """The sizes of their vocabularies; None: the target's is the source's."""
    values = _with_defaults(config)
    if values["share_encoder_decoder_embeddings"]:
        return _get(values, "vocab_size"), None
    return _get(values, "vocab_size"), values.get("decoder_vocab_size") or values["vocab_size"]


def config_from(
    options: Transformer, settings: TextSettings, vocabulary: int, target_vocabulary: int | None = None
) -> dict[str, Any]:
    """Their ``config.json`` from our options; it holds ``bad_words_ids`` too, which belong to generation."""
    for name, value in FIXED.items():
        if getattr(options, name) != value and not (name == "output_bias" or _means(options, name) == value):
            raise RegardError(f"MarianMT cannot hold this model: {name} would have to be {value}")
    if len(settings.start) != 1 or len(settings.ends) != 1:
        raise RegardError(
            f"MarianMT cannot hold this model: start = {list(settings.start)}, ends = {list(settings.ends)}: "
            "expected one mark of each"
        )
    if settings.source_before or settings.source_after != settings.ends:
        raise RegardError("MarianMT cannot hold this model: a source would have to end with the end mark alone")
    activations = {ours: theirs for theirs, ours in ACTIVATIONS.items()}
    config = {key: getattr(options, option) for key, option in OPTIONS.items()}
    return {
        "model_type": "marian",
        "architectures": ["MarianMTModel"],
        **config,
        **{other: config[key] for key, other in TWICE.items()},
        "activation_function": activations[options.activation],
        "vocab_size": vocabulary,
        "decoder_vocab_size": vocabulary if target_vocabulary is None else target_vocabulary,
        "share_encoder_decoder_embeddings": options.share == "all",
        "tie_word_embeddings": options.share != "none",
        "max_position_embeddings": settings.max_length + 1,
        "pad_token_id": settings.pad,
        "eos_token_id": settings.ends[0],
        "forced_eos_token_id": None,
        "bos_token_id": None,
        "decoder_start_token_id": settings.start[0],
        "bad_words_ids": [[token] for token in settings.suppressed] or None,
    }


def table(options: Transformer, max_positions: int = 1024) -> list[Entry]:
    """The names of their checkpoint and ours."""
    positions = sinusoids(max_positions, options.width, interleaved=False)
    return [
        *_embeddings(options.share),
        constant("model.encoder.embed_positions.weight", positions),
        constant("model.decoder.embed_positions.weight", positions),
        *repeat(options.encoder_layers, _layer("encoder")),
        *repeat(options.decoder_layers, _layer("decoder")),
        stack(("output_bias",), "final_logits_bias"),  # [1, V] there, [V] here
    ]


def _embeddings(share: Share) -> list[Entry]:
    source, target = "source_embedding.table.weight", "target_embedding.table.weight"
    if share == "all":
        copies = ["model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight"]
        return [same(source, "model.shared.weight"), *(absent(name, "model.shared.weight") for name in copies)]
    both = [same(source, "model.encoder.embed_tokens.weight"), same(target, "model.decoder.embed_tokens.weight")]
    if share == "target":
        return [*both, absent("lm_head.weight", "model.decoder.embed_tokens.weight")]
    return [*both, same("output.weight", "lm_head.weight")]


def _layer(stack_name: str) -> list[Entry]:
    ours, theirs = f"{stack_name}.layers.#", f"model.{stack_name}.layers.#"
    attentions = [("self_attention", "self_attn")]
    if stack_name == "decoder":
        attentions.append(("cross_attention", "encoder_attn"))
    modules: list[tuple[str, str]] = []
    for our_name, their_name in attentions:
        parts = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "out_proj"}
        modules += [(f"{our_name}.{a}", f"{their_name}.{b}") for a, b in parts.items()]
        modules.append((f"{our_name}_residual.norm", f"{their_name}_layer_norm"))
    modules += [
        ("feedforward.input", "fc1"),
        ("feedforward.output", "fc2"),
        ("feedforward_residual.norm", "final_layer_norm"),
    ]
    return [same(f"{ours}.{a}.{kind}", f"{theirs}.{b}.{kind}") for a, b in modules for kind in ("weight", "bias")]


def import_model(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> EncoderDecoder:
    """Our model, in evaluation mode, from their configuration and state dict."""
    options = options_from(config)
    if registry.layers(options) > len(weights):
        raise RegardError(f"config.json has {registry.layers(options)} layers, but there are {len(weights)} tensors")
    ours = import_weights(table(options, _with_defaults(config)["max_position_embeddings"]), weights)
    model = options.build(*vocabularies(config)).to(next(iter(ours.values())).dtype)
    try:
        model.load_state_dict(ours)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise RegardError(f"the weights do not fit the configuration: {reason}") from error
    return model.eval()


def export_model(model: EncoderDecoder, settings: TextSettings) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Their configuration and state dict from our model."""
    options = model.options
    assert isinstance(options, Transformer), "MarianMT holds Transformers only"
    source, target = model.source_embedding.table.weight, model.target_embedding.table.weight
    config = config_from(options, settings, len(source), len(target))
    ours = {name: tensor.detach() for name, tensor in model.state_dict().items() if name not in model.ties}
    ours.setdefault("output_bias", torch.zeros(len(target), dtype=target.dtype, device=target.device))
    return config, export_weights(table(options), ours)


def _with_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    if config.get("model_type", "marian") != "marian":
        raise RegardError(f"model_type = {config['model_type']!r}: expected 'marian'")
    values = {**DEFAULTS, **config}
    for key in OPTIONS:
        _get(values, key)
    positions = values["max_position_embeddings"]
    if not isinstance(positions, int) or not 1 < positions <= limits.LENGTH + 1:
        raise RegardError(f"max_position_embeddings = {positions!r:.40}: expected 2 to {limits.LENGTH + 1}")
    return values


def _get(values: Mapping[str, Any], key: str) -> Any:
    if values.get(key) is None:
        raise RegardError(f"config.json has no '{key}'")
    return values[key]


def _share(values: Mapping[str, Any]) -> Share:
    if not values["share_encoder_decoder_embeddings"]:
        return "target" if values["tie_word_embeddings"] else "none"
    if not values["tie_word_embeddings"]:
        raise RegardError("tie_word_embeddings is false, but the two sides share a table: expected both or neither")
    return "all"


def _means(options: Transformer, name: str) -> Any:
    """The value of an option; one that others can imply is given as if they did."""
    if name == "final_norm":
        return options.normed_at_the_end
    if name == "key_value_heads" and options.key_value_heads == options.heads:
        return 0
    if name == "head_width" and options.head_width * options.heads == options.width:
        return 0
    if name == "embedding_dropout" and options.embedding_dropout == options.dropout:
        return None
    return getattr(options, name)
