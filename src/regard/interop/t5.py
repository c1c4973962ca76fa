"""T5 (Raffel et al. 2020), in its original form and as v1.1 and Flan-T5, as our Transformer.

Pre-norm without biases or scaled scores, a relative bias that all layers of a stack share, one table for both inputs.
The original scales the last hidden states by 1 / √D and ties the output to that table; v1.1 has a gate and a table of
its own for the output. ``tie_word_embeddings`` false means v1.1's scale in some files, ``scale_decoder_outputs`` in
others; which tables there are, the tensors say.
"""

from __future__ import annotations

from typing import Any

from regard.interop.family import TRAINING, Family, PositionsKey
from regard.interop.keys import POSITIONS, REQUIRED, Values, chosen, model_class, name_of, norm, option, options
from regard.interop.tables import Entry, absent, modules, repeat, same, unused

# feed_forward_proj → activation, gated, and the library's name of the activation
PROJECTIONS = {
    "relu": ("relu", False, "relu"), "gated-gelu": ("gelu_tanh", True, "gelu_new"), "gelu": ("gelu", False, "gelu"),
    "gated-relu": ("relu", True, "relu"), "gelu_new": ("gelu_tanh", False, "gelu_new"),
    "gated-silu": ("silu", True, "silu"), "silu": ("silu", False, "silu"),
}  # fmt: skip
GATES = {name: (activation, gated) for name, (activation, gated, _) in PROJECTIONS.items()}
SHARED = "shared.weight"


def _projection(given: Values) -> dict[str, Any]:
    activation, gated, said = chosen("feed_forward_proj", given["feed_forward_proj"], PROJECTIONS)
    for key, value in {"dense_act_fn": said, "is_gated_act": gated}.items():
        if given[key] not in (None, value):
            raise ValueError(f"feed_forward_proj makes {key} {value!r}")
    return {"activation": activation, "gated": gated}


def _outputs(given: Values) -> dict[str, Any]:
    tied, scaled = given["tie_word_embeddings"] is not False, given["scale_decoder_outputs"]
    scaled = tied if scaled is None else bool(scaled)
    # Where an original model has both tensors, one is a copy; v1.1 has two tables.
    own = given["own_output"] and not (scaled and tied)
    return {"output_scale": given["d_model"] ** -0.5 if scaled else 1.0, "share": "inputs" if own else "all"}


def table(ours: Any, values: Values) -> list[Entry]:
    """The names of their checkpoint and ours."""
    return [
        same("source_embedding.table.weight", SHARED),
        *(absent(f"{name}.embed_tokens.weight", SHARED) for name in ("encoder", "decoder")),
        same("output.weight", "lm_head.weight") if ours.share == "inputs" else absent("lm_head.weight", SHARED),
        *_stack("encoder", ours.encoder_layers, ours.gated, ["SelfAttention"]),
        *_stack("decoder", ours.decoder_layers, ours.gated, ["SelfAttention", "EncDecAttention"]),
        unused("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"),
    ]


def _stack(name: str, layers: int, gated: bool, attentions: list[str]) -> list[Entry]:
    inner = {"gate": "wi_0", "input": "wi_1", "output": "wo"} if gated else {"input": "wi", "output": "wo"}
    names = {f"feedforward.{one}": f"{len(attentions)}.DenseReluDense.{other}" for one, other in inner.items()}
    parts = ("self_attention", "cross_attention")[: len(attentions)]
    for number, (one, other) in enumerate(zip(parts, attentions, strict=True)):
        names |= {f"{one}.{part}": f"{number}.{other}.{part[0]}" for part in ("query", "key", "value", "output")}
    names |= {f"{one}_residual.norm": f"{number}.layer_norm" for number, one in enumerate((*parts, "feedforward"))}
    bias = f"{name}.block.0.layer.0.SelfAttention.relative_attention_bias"
    return [
        *repeat(layers, modules(names, "weight", ours=f"{name}.layers.#.", theirs=f"{name}.block.#.layer.")),
        *modules({f"{name}.bias": bias, f"{name}.norm": f"{name}.final_layer_norm"}, "weight"),
    ]


T5 = Family(
    name="T5", model_type="t5", architecture="transformer",
    tasks=dict.fromkeys(("T5ForConditionalGeneration", "T5WithLMHeadModel"), "translation"),
    keys=(
        model_class("T5ForConditionalGeneration", "T5WithLMHeadModel"),
        option("d_model", "width"),
        option("d_ff", "feedforward"),
        option("num_heads", "heads"),
        norm("layer_norm_epsilon", "rms_norm", 1e-6, "norm"),
        options({"num_layers": REQUIRED, "num_decoder_layers": None},
                lambda v: {"encoder_layers": v["num_layers"],
                           "decoder_layers": v["num_decoder_layers"] or v["num_layers"]},
                lambda o: {"num_layers": o.encoder_layers, "num_decoder_layers": o.decoder_layers}),
        options({"d_kv": 64}, lambda v: {"head_width": v["d_kv"]},
                lambda o: {"d_kv": o.head_width or o.width // o.heads}),
        options({"relative_attention_num_buckets": 32, "relative_attention_max_distance": 128},
                lambda v: {"positions": {"kind": "relative_bias", "buckets": v["relative_attention_num_buckets"],
                                         "distance": v["relative_attention_max_distance"]}},
                lambda o: {"relative_attention_num_buckets": getattr(o.positions, "buckets", 32),
                           "relative_attention_max_distance": getattr(o.positions, "distance", 128)}),
        options({"feed_forward_proj": "relu", "dense_act_fn": None, "is_gated_act": None}, _projection,
                lambda o: {"feed_forward_proj": name_of("activation and gated", (o.activation, o.gated), GATES)}),
        options({"d_model": REQUIRED, "tie_word_embeddings": None, "scale_decoder_outputs": None, "own_output": None},
                _outputs,
                lambda o: {"tie_word_embeddings": o.share == "all", "scale_decoder_outputs": o.output_scale != 1,
                           "own_output": o.share == "inputs"}),
        options({"dropout_rate": 0.1}, lambda v: dict.fromkeys(TRAINING, v["dropout_rate"]),
                lambda o: {"dropout_rate": o.dropout}),
    ),
    only={"is_encoder_decoder": True, "is_decoder": False},
    fixed={"order": "pre", "final_norm": True, "bias": False, "scale": 1.0, "scale_embedding": False},
    ignored=frozenset({"classifier_dropout", "id2label", "label2id"}),
    tensors={"own_output": "lm_head.weight"},
    table=table, positions=PositionsKey("n_positions", 512, POSITIONS),
)  # fmt: skip
