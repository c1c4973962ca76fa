"""Hugging Face's MarianMT (the OPUS-MT translators) as our Transformer, and back.

MarianMT is the paper's model with four peculiarities: all sines of the positions stand before all cosines, the logits
have a bias, post-norm stacks end without a further norm, and a target begins with the padding id, which is never
produced.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from regard import limits
from regard.errors import RegardError
from regard.interop.family import Family, PositionsKey
from regard.interop.keys import ACTIVATIONS, Values, model_class, option, options
from regard.interop.tables import Entry, absent, constant, modules, repeat, same
from regard.interop.transforms import unstack
from regard.nn.norm import LayerNorm
from regard.nn.positions import Sinusoidal, sinusoids


def _share(given: Values) -> dict[str, Any]:
    if not given["share_encoder_decoder_embeddings"]:
        return {"share": "target" if given["tie_word_embeddings"] else "none"}
    if not given["tie_word_embeddings"]:
        raise RegardError("tie_word_embeddings is false, but the two sides share a table: expected both or neither")
    return {"share": "all"}


def table(ours: Any, values: Values) -> list[Entry]:
    """The names of their checkpoint and ours."""
    positions = values["max_position_embeddings"], ours.width
    make = partial(sinusoids, *positions, interleaved=False)
    return [
        *_embeddings(ours.share),
        constant("model.encoder.embed_positions.weight", positions, make),
        constant("model.decoder.embed_positions.weight", positions, make),
        *repeat(ours.encoder_layers, _layer("encoder", {"self_attention": "self_attn"})),
        *repeat(
            ours.decoder_layers, _layer("decoder", {"self_attention": "self_attn", "cross_attention": "encoder_attn"})
        ),
        same(("output_bias",), "final_logits_bias", unstack()),  # [1, V] there, [V] here
    ]


def _embeddings(share: str) -> list[Entry]:
    source, target = "source_embedding.table.weight", "target_embedding.table.weight"
    if share == "all":
        copies = ["model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight"]
        return [same(source, "model.shared.weight"), *(absent(name, "model.shared.weight") for name in copies)]
    both = [same(source, "model.encoder.embed_tokens.weight"), same(target, "model.decoder.embed_tokens.weight")]
    if share == "target":
        return [*both, absent("lm_head.weight", "model.decoder.embed_tokens.weight")]
    return [*both, same("output.weight", "lm_head.weight")]


def _layer(stack: str, attentions: dict[str, str]) -> list[Entry]:
    names = {"feedforward.input": "fc1", "feedforward.output": "fc2", "feedforward_residual.norm": "final_layer_norm"}
    parts = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "out_proj"}
    for ours, theirs in attentions.items():
        names |= {f"{ours}.{a}": f"{theirs}.{b}" for a, b in parts.items()}
        names[f"{ours}_residual.norm"] = f"{theirs}_layer_norm"
    return modules(names, "weight", "bias", ours=f"{stack}.layers.#.", theirs=f"model.{stack}.layers.#.")


MARIAN = Family(
    name="MarianMT",
    model_type="marian",
    architecture="transformer",
    tasks={"MarianMTModel": "translation"},
    keys=(
        model_class("MarianMTModel"),
        option("d_model", "width"),
        option("encoder_layers", "encoder_layers"),
        option("decoder_layers", "decoder_layers"),
        option("encoder_attention_heads", "heads", same_as="decoder_attention_heads"),
        option("encoder_ffn_dim", "feedforward", same_as="decoder_ffn_dim"),
        option("dropout", "dropout", 0.1),
        option("attention_dropout", "attention_dropout", 0.0),
        option("activation_dropout", "activation_dropout", 0.0),
        option("activation_function", "activation", "gelu", {"swish": "silu", **ACTIVATIONS}),
        option("scale_embedding", "scale_embedding", False),
        options(
            {"share_encoder_decoder_embeddings": True, "tie_word_embeddings": True},
            _share,
            lambda o: {
                "share_encoder_decoder_embeddings": o.share == "all",
                "tie_word_embeddings": o.share != "none",
            },
        ),
    ),
    only={"is_encoder_decoder": True, "is_decoder": False, "normalize_before": False, "normalize_embedding": False,
          "add_final_layer_norm": False, "static_position_embeddings": True},
    fixed={
        "positions": Sinusoidal(interleaved=False),
        "norm": LayerNorm(eps=1e-5),
        "order": "post",
        "final_norm": False,
        "bias": True,
        "output_bias": True,
    },
    free=("output_bias",),
    ignored=frozenset({
        "encoder_layerdrop", "decoder_layerdrop", "classif_dropout", "classifier_dropout", "add_bias_logits",
        "extra_pos_embeddings", "id2label", "label2id", "_num_labels", "num_hidden_layers",
    }),
    vocabularies=("vocab_size", "decoder_vocab_size"),
    table=table,
    positions=PositionsKey("max_position_embeddings", 1024, limits.LENGTH + 1),
)  # fmt: skip
