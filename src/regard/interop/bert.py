"""BERT (Devlin et al. 2018) and its heads as our encoder: masked words, labels of texts and tokens, spans, or none."""

from __future__ import annotations

from typing import Any

from regard.interop.family import Family
from regard.interop.keys import (
    ACTIVATIONS,
    POSITIONS,
    REQUIRED,
    Values,
    chosen,
    class_of,
    must,
    name_of,
    option,
    options,
)
from regard.interop.tables import Entry, absent, modules, repeat, same, unused

# their class → kind of our head, and the task
CLASSES = {
    "BertModel": ("", "embedding"),
    "BertForMaskedLM": ("masked_words", "masked"),
    "BertForPreTraining": ("masked_words", "masked"),
    "BertForSequenceClassification": ("text_labels", "classification"),
    "BertForTokenClassification": ("token_labels", "tagging"),
    "BertForQuestionAnswering": ("spans", "spans"),
}


def _head(given: Values) -> dict[str, Any]:
    kind, _ = chosen("architectures", class_of(given), CLASSES)
    dropout = given["classifier_dropout"]
    dropout = given["hidden_dropout_prob"] if dropout is None else dropout
    if kind == "masked_words":
        if given["tie_word_embeddings"] is False:
            raise ValueError("a table of its own for the output is not one of our heads")
        norm = {"kind": "layer_norm", "eps": given["layer_norm_eps"]}
        activation = chosen("hidden_act", given["hidden_act"], ACTIVATIONS)
        return {"head": {"kind": kind, "activation": activation, "norm": norm}}
    if kind in ("text_labels", "token_labels"):
        if kind == "text_labels" and given["problem_type"] not in (None, "single_label_classification"):
            raise ValueError("one label for a text is all that regard reads")
        labels = _labels(given["id2label"])
        if kind == "text_labels" and len(labels) == 1 and given["problem_type"] is None:
            raise ValueError("a single label means a number (regression), which regard does not read")
        return {"head": {"kind": kind, "dropout": dropout}, "labels": labels}
    return {"head": {"kind": kind} if kind else None}


def _labels(names: dict[str, str] | None) -> list[str]:
    names = {"0": "LABEL_0", "1": "LABEL_1"} if names is None else names
    if {str(key) for key in names} != {str(number) for number in range(len(names))}:
        raise ValueError("id2label: expected the labels of 0, 1, 2, …")
    return [names[key] for key in sorted(names, key=int)]


def _class(ours: Any) -> dict[str, Any]:
    kinds = {"MaskedWords": "masked_words", "TextLabels": "text_labels", "TokenLabels": "token_labels",
             "Spans": "spans", "NoneType": ""}  # fmt: skip
    kind = kinds[type(ours.head).__name__]
    found: dict[str, Any] = {"architectures": [name_of("head", kind, {name: k for name, (k, _) in CLASSES.items()})]}
    if ours.labels:
        found["id2label"] = {str(number): label for number, label in enumerate(ours.labels)}
        found["label2id"] = {label: number for number, label in enumerate(ours.labels)}
        found["classifier_dropout"] = ours.head.dropout
    return found


def table(ours: Any, values: Values) -> list[Entry]:
    """The names of their checkpoint and ours."""
    kind, _ = CLASSES[class_of(values)]
    words, both = "bert.embeddings.word_embeddings.weight", ("weight", "bias")
    self_attention = {f"self_attention.{name}": f"attention.self.{name}" for name in ("query", "key", "value")}
    layer = {
        **self_attention,
        "self_attention.output": "attention.output.dense",
        "self_attention_residual.norm": "attention.output.LayerNorm",
        "feedforward.input": "intermediate.dense",
        "feedforward.output": "output.dense",
        "feedforward_residual.norm": "output.LayerNorm",
    }
    layer = {f"decoder.layers.#.{name}": f"bert.encoder.layer.#.{theirs}" for name, theirs in layer.items()}
    entries = [
        same("target_embedding.table.weight", words),
        same("target_embedding.positions.weight", "bert.embeddings.position_embeddings.weight"),
        same("target_embedding.segments.weight", "bert.embeddings.token_type_embeddings.weight"),
        *modules({"target_embedding.norm": "bert.embeddings.LayerNorm"}, *both),
        unused("bert.embeddings.position_ids"),
        *repeat(ours.layers, modules(layer, *both)),
    ]
    if kind == "text_labels":
        entries += modules({"head.pooler": "bert.pooler.dense", "head.output": "classifier"}, *both)
        return entries
    entries += [unused(f"bert.pooler.dense.{name}") for name in both]  # of the first token, for heads that read it
    if kind == "masked_words":
        names = {"linear": "dense", "norm": "LayerNorm"}
        names = {f"before_scores.{name}": f"cls.predictions.transform.{theirs}" for name, theirs in names.items()}
        entries += [*modules(names, *both), same("output_bias", "cls.predictions.bias")]
        entries += [absent("cls.predictions.decoder.weight", words)]
        entries += [absent("cls.predictions.decoder.bias", "cls.predictions.bias")]
        entries += [unused(f"cls.seq_relationship.{name}") for name in both]
    elif kind:
        entries += modules({"head.output": "classifier" if kind == "token_labels" else "qa_outputs"}, *both)
    return entries


BERT = Family(
    name="BERT",
    model_type="bert",
    architecture="encoder",
    tasks={name: task for name, (_, task) in CLASSES.items()},
    keys=(
        option("hidden_size", "width", 768),
        option("num_hidden_layers", "layers", 12),
        option("num_attention_heads", "heads", 12),
        option("intermediate_size", "feedforward", 3072),
        option("hidden_act", "activation", "gelu", ACTIVATIONS),
        option("hidden_dropout_prob", "dropout", 0.1),
        option("attention_probs_dropout_prob", "attention_dropout", 0.1),
        option("type_vocab_size", "segments", 2),
        options(
            {"max_position_embeddings": 512},
            lambda v: {"positions": {"kind": "learned", "length": v["max_position_embeddings"]}},
            lambda o: {"max_position_embeddings": getattr(o.positions, "length", 512)},
        ),
        options(
            {"layer_norm_eps": 1e-12},
            lambda v: {name: {"kind": "layer_norm", "eps": v["layer_norm_eps"]} for name in ("norm", "embedding_norm")},
            lambda o: {"layer_norm_eps": o.norm.eps},
        ),
        options(
            {"architectures": REQUIRED, "id2label": None, "problem_type": None, "classifier_dropout": None,
             "hidden_dropout_prob": 0.1, "hidden_act": "gelu", "layer_norm_eps": 1e-12, "tie_word_embeddings": True},
            _head,
            _class,
        ),
        must("position_embedding_type", "absolute"),
        must("is_decoder", False),
        must("is_encoder_decoder", False),
        must("add_cross_attention", False),
        must("pruned_heads", {}),
    ),
    fixed={"order": "post", "final_norm": False, "gated": False, "bias": True, "scale_embedding": False},
    ignored=frozenset({
        "label2id", "directionality", "pooler_fc_size", "pooler_num_attention_heads", "pooler_num_fc_layers",
        "pooler_size_per_head", "pooler_type",
    }),
    renamed={"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"},
    base=("BertModel", "bert."),
    table=table,
    longest=("max_position_embeddings", 512, POSITIONS),
)  # fmt: skip
