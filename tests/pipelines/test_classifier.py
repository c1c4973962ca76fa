"""Texts in, labels out: against the model called by hand, one text at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from regard.config import to_toml
from regard.errors import RegardError
from regard.nn.sequences import Tokens
from regard.pipelines.classifier import Classifier, cut
from regard.pipelines.rows import batches
from regard.schema import Config, DataConfig

from .conftest import LABELS, Make

TEXTS = ["the capital of france", "paris!", "", "我爱 a walk , b c " * 2, "zzz", "the " * 14]


def by_hand(classifier: Classifier, ids: list[int], segments: list[int] | None = None) -> list[float]:
    tokens = Tokens(
        torch.tensor([ids]), torch.tensor([len(ids)]), segments=None if segments is None else torch.tensor([segments])
    )
    with torch.inference_mode():
        return classifier.model.label_scores(tokens)[0].softmax(-1).tolist()


def test_a_batch_is_each_text_alone(make: Make) -> None:
    classifier = Classifier(make("classification"))
    for batch_tokens in (1, 40, 4096):
        for text, found in zip(TEXTS, classifier.classify(TEXTS, batch_tokens=batch_tokens), strict=True):
            ids = [2, *classifier.tokenizer.encode(text), 3]
            expected = dict(zip(LABELS["classification"], by_hand(classifier, ids), strict=True))
            assert dict(found.labels) == pytest.approx(expected, abs=1e-5)  # padding changes the order of sums
            values = [one.probability for one in found.labels]
            assert values == sorted(values, reverse=True) and sum(values) == pytest.approx(1)
            assert (found.label, found.probability) == found.labels[0]
    assert classifier.classify([]) == []
    [two] = classifier.classify("paris", k=2)
    assert len(two.labels) == 2


def test_a_pair_has_marks_between_and_segments(make: Make) -> None:
    classifier = Classifier(make("classification"))
    [found] = classifier.classify("the capital", "of france .")
    first, second = classifier.tokenizer.encode_batch(["the capital", "of france ."])
    ids, segments = [2, *first, 3, *second, 3], [0] * (len(first) + 2) + [1] * (len(second) + 1)
    assert found.probability == pytest.approx(max(by_hand(classifier, ids, segments)), abs=1e-5)
    assert found.probability != pytest.approx(max(by_hand(classifier, ids)), abs=1e-3)
    with pytest.raises(RegardError, match="2 texts and 1 second texts"):
        classifier.classify(["a", "b"], ["c"])


def test_a_model_trained_on_pairs_refuses_single_texts(make: Make, tmp_path: Path) -> None:
    """The run's configuration says so; of another model with segments (a published BERT) nothing does."""
    data = DataConfig(train=("a.tsv",), valid="b.tsv", text="one", pair="two")
    (tmp_path / "run.toml").write_text(to_toml(Config(data=data, task="classification")), "utf-8")
    classifier = Classifier(replace(make("classification"), path=tmp_path))
    with pytest.raises(RegardError, match=r"was trained on pairs of texts .*run\.toml.*: give the second texts"):
        classifier.classify("the capital")
    assert classifier.classify("the capital", "of france")
    (tmp_path / "run.toml").write_text(to_toml(Config(data=replace(data, pair=""), task="classification")), "utf-8")
    assert Classifier(replace(make("classification"), path=tmp_path)).classify("the capital")


def test_a_long_text_is_cut_with_a_remark(make: Make) -> None:
    classifier = Classifier(make("classification"))
    said: list[tuple[int, str]] = []
    long = "the capital of france " * 500
    found = classifier.classify(["paris", long], warn=lambda number, what: said.append((number, what)))
    assert said == [(1, "has 2,000 subwords, and the model reads 14: the rest is left out")]
    assert found[1].probability == pytest.approx(
        max(by_hand(classifier, [2, *classifier.tokenizer.encode(long)[:14], 3])), abs=1e-5
    )


def test_what_the_model_has_learnt_bounds_a_text_too(make: Make) -> None:
    classifier = Classifier(make("classification", max_length=3))
    said: list[int] = []
    classifier.classify(["a b c", "a b c a"], warn=lambda number, _: said.append(number))
    assert said == [1]


def test_a_pair_is_cut_where_it_is_longer() -> None:
    for one, two, longest, lengths in ((9, 2, 6, (4, 2)), (2, 9, 6, (2, 4)), (9, 9, 5, (2, 3)), (9, 8, 5, (3, 2))):
        first, second = cut(list(range(one)), list(range(two)), longest)
        assert second is not None and (len(first), len(second)) == lengths
        assert first == list(range(len(first)))


def test_batches_hold_similar_lengths() -> None:
    lengths = [3, 50, 4, 4, 1, 20]
    found = [batch.tolist() for batch in batches(lengths, 20)]
    assert found == [[1], [5], [2, 3, 0, 4]]


def test_models_of_other_tasks_are_refused(make: Make) -> None:
    with pytest.raises(RegardError, match="tiny: the model's task is tagging: it does not classify texts"):
        Classifier(make("tagging"))


def test_odd_texts(make: Make) -> None:
    classifier = Classifier(make("classification"))
    for text in ("\0", "\ud83d", "x" * 100_000, "\u202e", "[CLS] [SEP]", "\n\n"):
        assert classifier.classify(text)[0].label in LABELS["classification"]
    for texts, pairs in (([None], None), (["a"], [3])):
        with pytest.raises(RegardError, match=r"text 1 is (None|3): expected a text"):
            classifier.classify(texts, pairs)  # type: ignore[arg-type]
    with pytest.raises(RegardError, match="text 1 is empty"):
        Classifier(make("classification", source_before=(), source_after=())).classify("")
    for wrong in ({"k": 0}, {"batch_tokens": 0}):
        with pytest.raises(RegardError):
            classifier.classify("a", **wrong)
