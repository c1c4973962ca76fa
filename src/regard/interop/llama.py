"""LLaMA (Touvron et al. 2023; LLaMA 2, 3 and models arranged alike) as our decoder-only Transformer.

Pre-norm with RMSNorm, a gated feed-forward network, rotary positions, grouped heads.
"""

from __future__ import annotations

from typing import Any

from regard.interop.family import Family, PositionsKey
from regard.interop.keys import ACTIVATIONS, POSITIONS, Values, chosen, model_class, norm, option, options
from regard.interop.tables import Entry, absent, modules, repeat, same, unused, zero
from regard.models import registry

# kind of our scaling → its options and their keys
SCALINGS = {
    "linear": {"factor": "factor"},
    "llama3": {"factor": "factor", "low_frequency_factor": "low_freq_factor", "high_frequency_factor":
               "high_freq_factor", "original_length": "original_max_position_embeddings"},
}  # fmt: skip
ATTENTION = {f"self_attention.{name}": f"self_attn.{name[0]}_proj" for name in ("query", "key", "value", "output")}
INNER = {"feedforward.gate": "mlp.gate_proj", "feedforward.input": "mlp.up_proj", "feedforward.output": "mlp.down_proj"}
NORMS = {"self_attention_residual.norm": "input_layernorm", "feedforward_residual.norm": "post_attention_layernorm"}


def _rotary(given: Values) -> dict[str, Any]:
    """``rope_theta`` and ``rope_scaling``, or in files of transformers 5 both in ``rope_parameters``."""
    found = [given[key] for key in ("rope_scaling", "rope_parameters") if given[key] is not None]
    if len(found) > 1:
        raise ValueError("expected one of rope_scaling and rope_parameters")
    rope = {key: value for key, value in dict(found[0] if found else {}).items() if value is not None}
    kinds = {rope.pop(key) for key in ("rope_type", "type") if key in rope} or {"default"}
    theta, whole = rope.pop("rope_theta", given["rope_theta"]), rope.pop("partial_rotary_factor", 1.0)
    if len(kinds) > 1 or whole != 1:
        raise ValueError("expected one rope_type, and 1 as partial_rotary_factor")
    keys = chosen("rope_type", kind := kinds.pop(), {"default": {}, **SCALINGS})
    rope.setdefault("original_max_position_embeddings", given["max_position_embeddings"])
    if unknown := rope.keys() - {*keys.values(), "original_max_position_embeddings"}:
        raise ValueError(f"unknown: {', '.join(sorted(map(repr, unknown)))}")
    scaling = {"kind": kind, **{name: rope[key] for name, key in keys.items()}} if keys else None
    return {"positions": {"kind": "rotary", "theta": theta, "scaling": scaling}}


def _rope(ours: Any) -> dict[str, Any]:
    """Their keys as transformers 4 wrote them, which 5 reads too."""
    theta, scaling = getattr(ours.positions, "theta", 1e4), getattr(ours.positions, "scaling", None)
    if scaling is None:
        return {"rope_theta": theta, "rope_scaling": None}
    kind = registry.kind_of("scaling", scaling)
    rope = {key: getattr(scaling, name) for name, key in SCALINGS[kind].items()}
    return {"rope_theta": theta, "rope_scaling": {"rope_type": kind, **rope}}


def table(ours: Any, values: Values) -> list[Entry]:
    """The names of their checkpoint and ours."""
    one, other, words = "decoder.layers.#.", "model.layers.#.", "model.embed_tokens.weight"
    layer = modules({**ATTENTION, **INNER, **NORMS}, "weight", ours=one, theirs=other)
    for names, biased in ((ATTENTION, values["attention_bias"]), (INNER, values["mlp_bias"])):
        if biased:
            layer += modules(names, "bias", ours=one, theirs=other)
        elif ours.bias:  # of ours, attention and feed-forward network have biases or neither has
            layer += [zero(f"{one}{name}.bias") for name in names]
    return [
        same("target_embedding.table.weight", words),
        absent("lm_head.weight", words) if ours.tied else same("output.weight", "lm_head.weight"),
        *repeat(ours.layers, [*layer, unused(f"{other}self_attn.rotary_emb.inv_freq")]),
        same("decoder.norm.weight", "model.norm.weight"),
    ]


LLAMA = Family(
    name="LLaMA", model_type="llama", architecture="decoder", tasks={"LlamaForCausalLM": "language_model"},
    keys=(
        model_class("LlamaForCausalLM"),
        option("hidden_size", "width"),
        option("intermediate_size", "feedforward"),
        option("num_hidden_layers", "layers"),
        option("num_attention_heads", "heads"),
        option("hidden_act", "activation", "silu", ACTIVATIONS),
        option("tie_word_embeddings", "tied", False),
        option("attention_dropout", "attention_dropout", 0.0),
        norm("rms_norm_eps", "rms_norm", 1e-6, "norm"),
        options({"num_key_value_heads": 0, "head_dim": 0},
                lambda v: {"key_value_heads": v["num_key_value_heads"], "head_width": v["head_dim"]},
                lambda o: {"num_key_value_heads": o.key_value_heads or o.heads,
                           "head_dim": o.head_width or o.width // o.heads}),
        options({"rope_theta": 1e4, "rope_scaling": None, "rope_parameters": None, "max_position_embeddings": 2048},
                _rotary, _rope),
        options({"attention_bias": False, "mlp_bias": False},
                lambda v: {"bias": v["attention_bias"] or v["mlp_bias"]},
                lambda o: {"attention_bias": o.bias is True, "mlp_bias": o.bias is True}),
    ),
    only={"is_decoder": False, "is_encoder_decoder": False, "rope_interleaved": False},
    fixed={"order": "pre", "final_norm": True, "gated": True, "scale_embedding": False, "dropout": 0.0},
    ignored=frozenset({"pretraining_tp", "id2label", "label2id", "max_sequence_length", "is_llama_config"}),
    table=table, positions=PositionsKey("max_position_embeddings", 2048, POSITIONS),
)  # fmt: skip
