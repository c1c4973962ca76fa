"""BERT (Devlin et al. 2018) and its heads as our encoder: masked words, labels of texts and tokens, spans, or none."""

from __future__ import annotations

from typing import Any

from regard.interop.family import Family, PositionsKey
from regard.interop.keys import ACTIVATIONS, POSITIONS, REQUIRED, Values, chosen, class_of, norm, option, options
from regard.interop.tables import Entry, absent, modules, repeat, same, unused
from regard.models import registry
from regard.models.heads import check_labels

# their class → the kind of our head ("": none), and the task; of two classes with one kind the first is written
CLASSES = {
    "BertModel": ("", "embedding"),
    "BertForMaskedLM": ("masked_words", "masked"),
    "BertForPreTraining": ("masked_words", "masked"),
    "BertForSequenceClassification": ("text_labels", "classification"),
    "BertForTokenClassification": ("token_labels", "tagging"),
    "BertForQuestionAnswering": ("spans", "spans"),
}
LAYER = {
    **{f"self_attention.{name}": f"attention.self.{name}" for name in ("query", "key", "value")},
    "self_attention.output": "attention.output.dense", "self_attention_residual.norm": "attention.output.LayerNorm",
    "feedforward.input": "intermediate.dense", "feedforward.output": "output.dense",
    "feedforward_residual.norm": "output.LayerNorm",
}  # fmt: skip
EMBEDDINGS = {"table": "word_embeddings", "positions": "position_embeddings", "segments": "token_type_embeddings"}
HEADS = {
    "": {}, "spans": {"head.output": "qa_outputs"}, "token_labels": {"head.output": "classifier"},
    "text_labels": {"head.pooler": "bert.pooler.dense", "head.output": "classifier"},
    "masked_words": {"before_scores.linear": "cls.predictions.transform.dense",
                     "before_scores.norm": "cls.predictions.transform.LayerNorm"},
}  # fmt: skip


def _head(given: Values) -> dict[str, Any]:
    kind, _ = chosen("architectures", class_of(given), CLASSES)
    if kind == "masked_words":
        if given["tie_word_embeddings"] is False:
            raise ValueError("a table of its own for the output is not one of our heads")
        activation = chosen("hidden_act", given["hidden_act"], ACTIVATIONS)
        normed = {"kind": "layer_norm", "eps": given["layer_norm_eps"]}
        return {"head": {"kind": kind, "activation": activation, "norm": normed}}
    if kind not in ("text_labels", "token_labels"):
        return {"head": {"kind": kind} if kind else None}
    names = given["id2label"] or {"0": "LABEL_0", "1": "LABEL_1"}
    if {str(key) for key in names} != {str(number) for number in range(len(names))}:
        raise ValueError("id2label: expected the labels of 0, 1, 2, …")
    labels = [names[key] for key in sorted(names, key=int)]
    if not all(isinstance(label, str) for label in labels):
        raise ValueError("id2label: expected names of labels")
    check_labels(labels)
    problem = given["problem_type"] or ("regression" if len(names) == 1 else "single_label_classification")
    if kind == "text_labels" and problem != "single_label_classification":
        raise ValueError(f"{problem}: regard reads one of several labels for a text")
    dropout = given["hidden_dropout_prob"] if given["classifier_dropout"] is None else given["classifier_dropout"]
    return {"head": {"kind": kind, "dropout": dropout}, "labels": labels}


def _class(ours: Any) -> dict[str, Any]:
    kind = "" if ours.head is None else registry.kind_of("head", ours.head)
    found = {"architectures": [next(name for name, (each, _) in CLASSES.items() if each == kind)]}
    if not ours.labels:
        return found
    ids = {label: number for number, label in enumerate(ours.labels)}
    names = {str(number): label for label, number in ids.items()}
    return {**found, "id2label": names, "label2id": ids, "classifier_dropout": ours.head.dropout}


def table(ours: Any, values: Values) -> list[Entry]:
    """The names of their checkpoint and ours."""
    kind, both, words = CLASSES[class_of(values)][0], ("weight", "bias"), "cls.predictions"
    tables = {name: theirs for name, theirs in EMBEDDINGS.items() if name != "segments" or ours.segments}
    entries = [
        *modules(tables, "weight", ours="target_embedding.", theirs="bert.embeddings."),
        *modules({"target_embedding.norm": "bert.embeddings.LayerNorm", **HEADS[kind]}, *both),
        *repeat(ours.layers, modules(LAYER, *both, ours="decoder.layers.#.", theirs="bert.encoder.layer.#.")),
        unused("bert.embeddings.position_ids"),
    ]
    if kind != "text_labels":  # the one head that reads the pooled first token
        entries += [unused(f"bert.pooler.dense.{name}") for name in both]
    if kind == "masked_words":
        entries += [same("output_bias", f"{words}.bias"), absent(f"{words}.decoder.bias", f"{words}.bias")]
        entries += [absent(f"{words}.decoder.weight", "bert.embeddings.word_embeddings.weight")]
        entries += [unused(f"cls.seq_relationship.{name}") for name in both]  # of the pair's order: no task here
    return entries


BERT = Family(
    name="BERT", model_type="bert", architecture="encoder",
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
        norm("layer_norm_eps", "layer_norm", 1e-12, "norm", "embedding_norm"),
        options({"max_position_embeddings": 512},
                lambda v: {"positions": {"kind": "learned", "length": v["max_position_embeddings"]}},
                lambda o: {"max_position_embeddings": getattr(o.positions, "length", 512)}),
        options({"architectures": REQUIRED, "id2label": None, "problem_type": None, "classifier_dropout": None,
                 "hidden_dropout_prob": 0.1, "hidden_act": "gelu", "layer_norm_eps": 1e-12,
                 "tie_word_embeddings": True}, _head, _class),
    ),
    only={"position_embedding_type": "absolute", "is_decoder": False, "is_encoder_decoder": False,
          "add_cross_attention": False, "pruned_heads": {}},
    fixed={"order": "post", "final_norm": False, "gated": False, "bias": True, "scale_embedding": False},
    ignored=frozenset({"label2id", "num_labels", "_num_labels", "directionality", "pooler_fc_size",
                       "pooler_num_attention_heads", "pooler_num_fc_layers", "pooler_size_per_head", "pooler_type"}),
    renamed={"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"},
    base=("BertModel", "bert."), table=table, positions=PositionsKey("max_position_embeddings", 512, POSITIONS),
)  # fmt: skip
