"""Labels, tags and filled masks of published BERT folders against Hugging Face's own pipelines.

Both compute the same network in fp32 in another order, hence 1e-5 on probabilities.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from regard.pipelines.classifier import Classifier
from regard.pipelines.filler import Filler
from regard.pipelines.loading import open_model
from regard.pipelines.tagger import Tagger

transformers = pytest.importorskip("transformers")

SENTENCE = "the capital of france is paris and film was good bad we saw it in london on a walk"
WORDS = SENTENCE.split()
LETTERS = "abcdefghijklmnopqrstuvwxyz"
PIECES = (*WORDS, *LETTERS, *"0123456789.,!?'-我爱学习", *(f"##{letter}" for letter in LETTERS))
TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC", "MISC")
TOLERANCE = 1e-5


def folder_of(path: Path, kind: str, labels: tuple[str, ...] = (), positions: int = 64) -> Path:
    """A BERT of random weights and its tokenizer as ``save_pretrained`` writes them."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys(PIECES)]
    config = transformers.BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=positions,
        initializer_range=0.4,  # so that texts differ in their labels
        **({"id2label": dict(enumerate(labels)), "label2id": {x: i for i, x in enumerate(labels)}} if labels else {}),
    )
    torch.manual_seed(5)
    getattr(transformers, kind)(config).save_pretrained(path)
    tokenizer = transformers.BertTokenizer(vocab={word: number for number, word in enumerate(vocabulary)})
    tokenizer.model_max_length = positions
    tokenizer.save_pretrained(path)
    return path


def texts(count: int, longest: int = 20) -> list[str]:
    draw = random.Random(2)
    signs = [*WORDS, *WORDS, "Paris,", "walking", "good!", "我爱", "U.S.", "it's", "Zürich", "\u4e00x", "7-up"]
    return [" ".join(draw.choices(signs, k=draw.randint(1, longest))) for _ in range(count)]


def test_labels_are_those_of_their_pipeline(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "BertForSequenceClassification", ("good", "bad", "中 性"))
    theirs: Any = transformers.pipeline("text-classification", model=str(folder), top_k=None)
    ours = Classifier(open_model(str(folder), "cpu", torch.float32))
    some = [*texts(12), "  The FILM   was good!  ", "\u200b", "", "x" * 150]
    for text, found in zip(some, ours.classify(some), strict=True):
        [expected] = theirs([text])
        assert [one.label for one in found.labels] == [one["label"] for one in expected], text
        assert [one.probability for one in found.labels] == pytest.approx(
            [one["score"] for one in expected], abs=TOLERANCE
        )
        assert (found.label, found.probability) == found.labels[0]
    assert len({found.label for found in ours.classify(some)}) > 1


def test_pairs_and_long_texts_are_cut_as_theirs(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "BertForSequenceClassification", ("yes", "no"), positions=16)
    theirs: Any = transformers.pipeline("text-classification", model=str(folder), top_k=None)
    ours = Classifier(open_model(str(folder), "cpu", torch.float32))
    said: list[int] = []
    lengths = [(3, 4), (30, 4), (4, 30), (30, 30), (31, 30), (1, 13), (13, 1), (7, 6), (6, 7)]
    firsts, seconds = (
        [" ".join((WORDS * 2)[start : start + pair[side]]) for pair in lengths] for side, start in ((0, 0), (1, 3))
    )
    for found, first, second in zip(
        ours.classify(firsts, seconds, warn=lambda number, _: said.append(number)), firsts, seconds, strict=True
    ):
        expected = theirs({"text": first, "text_pair": second}, truncation=True)
        for one in expected:
            assert dict(found.labels)[one["label"]] == pytest.approx(one["score"], abs=TOLERANCE)
    assert said == [1, 2, 3, 4, 5, 6]
    [found], [expected] = ours.classify(" ".join(WORDS * 9)), theirs([" ".join(WORDS * 9)], truncation=True)
    assert found.probability == pytest.approx(expected[0]["score"], abs=TOLERANCE)


def test_entities_are_those_of_their_strategy_first(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "BertForTokenClassification", TAGS)
    theirs: Any = transformers.pipeline("token-classification", model=str(folder), aggregation_strategy="first")
    ours = Tagger(open_model(str(folder), "cpu", torch.float32))
    some = [*texts(12), " Paris\tis  \u200bPARIS.", "Zu\u0308rich é", ""]
    count = 0
    for text, found in zip(some, ours.tag(some), strict=True):
        expected = theirs(text)
        assert [(one.type, one.start, one.end) for one in found.entities] == [
            (one["entity_group"], one["start"], one["end"]) for one in expected
        ], text
        assert [one.probability for one in found.entities] == pytest.approx(
            [float(one["score"]) for one in expected], abs=TOLERANCE
        )
        assert all(text[one.start : one.end] == one.text for one in found.entities)
        count += len(expected)
    assert count > 20


def test_given_words_are_tagged_as_theirs(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "BertForTokenClassification", TAGS)
    theirs: Any = transformers.pipeline("token-classification", model=str(folder))
    ours = Tagger(open_model(str(folder), "cpu", torch.float32))
    for text in texts(6):
        words = text.split()
        expected = theirs(words, is_split_into_words=True, ignore_labels=[], delimiter=" ")
        expected = expected[0] if expected and isinstance(expected[0], list) else expected
        starts: dict[int, Any] = {}
        at = 0
        for number, word in enumerate(words):
            starts[number] = next(one for one in expected if one["start"] >= at)  # its first subword
            at += len(word) + 1
        [found] = ours.tag([words])
        assert [one.word for one in found.words] == words
        assert [one.tag for one in found.words] == [one["entity"] for one in starts.values()]
        assert [one.probability for one in found.words] == pytest.approx(
            [float(one["score"]) for one in starts.values()], abs=TOLERANCE
        )


def test_words_for_masks_are_those_of_their_pipeline(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "BertForMaskedLM")
    theirs: Any = transformers.pipeline("fill-mask", model=str(folder))
    ours = Filler(open_model(str(folder), "cpu", torch.float32))
    for text in ("the capital of France is [MASK].", "[MASK]", "walk[MASK] was bad", "a [MASK] of [MASK] film, [MASK]"):
        expected = theirs(text, top_k=4)
        expected = expected if isinstance(expected[0], list) else [expected]
        [found] = ours.fill(text, k=4)
        assert len(found.masks) == len(expected) == text.count("[MASK]")
        for mine, their in zip(found.masks, expected, strict=True):
            assert [one.id for one in mine] == [one["token"] for one in their]
            assert [one.word for one in mine] == [one["token_str"] for one in their]
            assert [one.probability for one in mine] == pytest.approx([one["score"] for one in their], abs=TOLERANCE)
    assert "[MASK]" not in found.text and found.masks[0][0].text.count("[MASK]") == 2
