"""LLaMA (Touvron et al. 2023; LLaMA 2, 3 and models arranged alike) as our decoder-only Transformer.

Pre-norm with RMSNorm, a gated feed-forward network, rotary positions, grouped heads.
"""

from __future__ import annotations

from typing import Any

from regard.interop.family import Family
from regard.interop.keys import ACTIVATIONS, POSITIONS, Values, chosen, model_class, must, option, options
from regard.interop.tables import Entry, absent, modules, repeat, same, unused, zero

# option of our scaling → key of theirs
SCALINGS = {
    "linear": {"factor": "factor"},
    "llama3": {
        "factor": "factor", "low_frequency_factor": "low_freq_factor", "high_frequency_factor": "high_freq_factor",
        "original_length": "original_max_position_embeddings",
    },
}  # fmt: skip


def _rotary(given: Values) -> dict[str, Any]:
    """``rope_theta`` and ``rope_scaling``, or in files of transformers 5 both in ``rope_parameters``."""
    found = [given[key] for key in ("rope_scaling", "rope_parameters") if given[key] is not None]
    if len(found) > 1:
        raise ValueError("expected one of rope_scaling and rope_parameters")
    rope = dict(found[0]) if found else {}
    rope = {key: value for key, value in rope.items() if value is not None}
    kinds = {rope.pop(key) for key in ("rope_type", "type") if key in rope} or {"default"}
    theta = rope.pop("rope_theta", given["rope_theta"])
    if rope.pop("partial_rotary_factor", 1.0) != 1:
        raise ValueError("partial_rotary_factor: expected 1")
    if len(kinds) > 1:
        raise ValueError("rope_type and type: expected the same")
    kind = kinds.pop()
    ours = chosen("rope_type", kind, {"default": {}, **SCALINGS})
    rope = {key: value for key, value in rope.items() if kind != "default" or key not in OF_SCALINGS}
    if unknown := set(rope) - set(ours.values()) - {"original_max_position_embeddings"}:
        raise ValueError(f"unknown: {', '.join(sorted(map(repr, unknown)))}")
    rope.setdefault("original_max_position_embeddings", given["max_position_embeddings"])
    scaling = {name: rope[key] for name, key in ours.items()}
    return {
        "positions": {
            "kind": "rotary", "theta": theta, "scaling": {"kind": kind, **scaling} if scaling else None,
        }
    }  # fmt: skip


OF_SCALINGS = {key for keys in SCALINGS.values() for key in keys.values()}


def _rope(ours: Any) -> dict[str, Any]:
    """Their keys as transformers 4 wrote them, which 5 reads too."""
    theta, scaling = getattr(ours.positions, "theta", 1e4), getattr(ours.positions, "scaling", None)
    if scaling is None:
        return {"rope_theta": theta, "rope_scaling": None}
    kind = {"LinearScaling": "linear", "Llama3Scaling": "llama3"}[type(scaling).__name__]
    rope = {key: getattr(scaling, name) for name, key in SCALINGS[kind].items()}
    return {"rope_theta": theta, "rope_scaling": {"rope_type": kind, **rope}}


def table(ours: Any, values: Values) -> list[Entry]:
    """The names of their checkpoint and ours."""
    names = {f"self_attention.{name}": f"self_attn.{name[0]}_proj" for name in ("query", "key", "value", "output")}
    inner = {"gate": "mlp.gate_proj", "input": "mlp.up_proj", "output": "mlp.down_proj"}
    inner = {f"feedforward.{name}": theirs for name, theirs in inner.items()}
    norms = {"self_attention": "input_layernorm", "feedforward": "post_attention_layernorm"}
    norms = {f"{name}_residual.norm": theirs for name, theirs in norms.items()}
    layer = modules(_within({**names, **inner, **norms}), "weight")
    for part, there in ((names, values["attention_bias"]), (inner, values["mlp_bias"])):
        if there:
            layer += modules(_within(part), "bias")
        elif ours.bias:  # of ours, attention and feed-forward network have biases or neither has
            layer += [zero(f"{name}.bias") for name in _within(part)]
    layer.append(unused("model.layers.#.self_attn.rotary_emb.inv_freq"))
    tables = "model.embed_tokens.weight"
    return [
        same("target_embedding.table.weight", tables),
        absent("lm_head.weight", tables) if ours.tied else same("output.weight", "lm_head.weight"),
        *repeat(ours.layers, layer),
        same("decoder.norm.weight", "model.norm.weight"),
    ]


def _within(names: dict[str, str]) -> dict[str, str]:
    return {f"decoder.layers.#.{ours}": f"model.layers.#.{theirs}" for ours, theirs in names.items()}


LLAMA = Family(
    name="LLaMA",
    model_type="llama",
    architecture="decoder",
    tasks={"LlamaForCausalLM": "language_model"},
    keys=(
        model_class("LlamaForCausalLM"),
        option("hidden_size", "width"),
        option("intermediate_size", "feedforward"),
        option("num_hidden_layers", "layers"),
        option("num_attention_heads", "heads"),
        options(
            {"num_key_value_heads": 0, "head_dim": 0},
            lambda v: {"key_value_heads": v["num_key_value_heads"], "head_width": v["head_dim"]},
            lambda o: {"num_key_value_heads": o.key_value_heads or o.heads,
                       "head_dim": o.head_width or o.width // o.heads},
        ),
        option("hidden_act", "activation", "silu", ACTIVATIONS),
        options(
            {"rms_norm_eps": 1e-6},
            lambda v: {"norm": {"kind": "rms_norm", "eps": v["rms_norm_eps"]}},
            lambda o: {"rms_norm_eps": o.norm.eps},
        ),
        options(
            {"rope_theta": 1e4, "rope_scaling": None, "rope_parameters": None, "max_position_embeddings": 2048},
            _rotary,
            _rope,
        ),
        options(
            {"attention_bias": False, "mlp_bias": False},
            lambda v: {"bias": v["attention_bias"] or v["mlp_bias"]},
            lambda o: {"attention_bias": o.bias is True, "mlp_bias": o.bias is True},
        ),
        option("tie_word_embeddings", "tied", False),
        option("attention_dropout", "attention_dropout", 0.0),
        must("is_decoder", False, True),
        must("is_encoder_decoder", False),
    ),
    fixed={"order": "pre", "final_norm": True, "gated": True, "scale_embedding": False, "dropout": 0.0},
    ignored=frozenset({"pretraining_tp", "id2label", "label2id"}),
    table=table,
    longest=("max_position_embeddings", 2048, POSITIONS),
)  # fmt: skip
