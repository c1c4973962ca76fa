"""Scores against sacreBLEU itself, and the cases in which people get them wrong."""

from __future__ import annotations

import lzma
import math
import random
import re

import numpy as np
import pytest
import sacrebleu
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.significance import PairedTest

from regard import evaluation
from regard.cli.demo import corpus
from regard.errors import RegardError
from regard.evaluation.labels import label_scores, wilson

REFERENCES = [
    "A man is riding a bicycle down the street.",
    "Two dogs are playing in the snow, near a house.",
    "The woman in the red shirt is holding a baby.",
    "Children are running through the park.",
    "He said: 'Where are you going?'",
    "Nobody knows what will happen tomorrow morning in the city.",
]


def spoiled(share, seed):
    draw = random.Random(seed)
    return [" ".join(w if draw.random() > share else "something" for w in line.split()) for line in REFERENCES * 6]


def test_scores_are_those_of_sacrebleu():
    hypotheses, references = spoiled(0.2, 1), REFERENCES * 6
    scores = evaluation.corpus_scores(hypotheses, references, "en")
    assert scores.bleu == sacrebleu.corpus_bleu(hypotheses, [references]).score
    assert scores.chrf == sacrebleu.corpus_chrf(hypotheses, [references]).score
    assert re.fullmatch(r"nrefs:1\|case:mixed\|eff:no\|tok:13a\|smooth:exp\|version:.*", scores.bleu_signature)
    assert "nc:6|nw:0" in scores.chrf_signature
    assert evaluation.bleu(hypotheses, references, "en") == scores.bleu
    assert all(isinstance(line, str) for line in scores.lines())


def test_the_tokenizer_follows_the_target_language():
    assert evaluation.tokenizer_for("en") == evaluation.tokenizer_for("de-AT") == "13a"
    assert {evaluation.tokenizer_for(code) for code in ("zh", "zh-CN", "zh_Hant", "ZH", "cmn", "yue")} == {"zh"}
    assert evaluation.tokenizer_for("ja") in ("ja-mecab", "char")
    hypotheses, references = ["我爱机器学习。", "今天天气很好"], ["我喜欢机器学习。", "今天的天气很好"]
    scores = evaluation.corpus_scores(hypotheses, references, "zh-CN")
    assert "tok:zh" in scores.bleu_signature
    assert scores.bleu == sacrebleu.corpus_bleu(hypotheses, [references], tokenize="zh").score
    evaluation.corpus_scores(["今日はいい天気です"], ["今日は天気がいいです"], "ja")


def test_the_published_protocol_is_another_bleu():
    pytest.importorskip("sacremoses")
    references = ["Ein Mann fährt, glaube ich, Rad.", "Zwei Hunde spielen im Schnee & Eis."]
    hypotheses = [line.upper() for line in references]
    published = evaluation.published_bleu(hypotheses, references, "de")
    assert published.score == pytest.approx(100.0)
    assert "tok:none" in published.signature and "published protocol" in published.signature
    assert evaluation.bleu(hypotheses, references, "de") < 50


def test_the_paired_bootstrap_is_sacrebleus():
    references = REFERENCES * 6
    a, b = spoiled(0.3, 1), spoiled(0.2, 2)
    mine = evaluation.paired_bootstrap(a, b, references, "en", samples=300)
    _, theirs = PairedTest(
        [("a", a), ("b", b)], {"BLEU": BLEU(references=[references])}, references=None, test_type="bs", n_samples=300
    )()
    baseline, other = theirs["BLEU"]
    assert (mine.a, mine.b) == pytest.approx((baseline.score, other.score))
    assert mine.p == pytest.approx(other.p_value, abs=1e-3)
    assert mine.low <= mine.b - mine.a <= mine.high
    assert "p = " in mine.line
    same = evaluation.paired_bootstrap(a, a, references, "en", samples=100, metric="chrf")
    assert same.a == same.b and same.p > 0.9


def test_several_references_are_scored_as_sacrebleu_does():
    real = lzma.decompress((corpus() / "dev.en.xz").read_bytes()).decode("utf-8").split("\n")[:200]
    draw = random.Random(1)
    a, b, first, second = (
        [" ".join(w for w in line.split() if draw.random() > share) for line in real] for share in (0.3, 0.2, 0.1, 0.4)
    )
    second[7] = ""  # a reference of no words, to sacreBLEU as to us
    for sets in ([first, second], [first, second, real]):
        scores = evaluation.corpus_scores(a, sets, "en")
        assert scores.bleu == sacrebleu.corpus_bleu(a, sets).score == evaluation.bleu(a, sets, "en")
        assert scores.chrf == sacrebleu.corpus_chrf(a, sets).score
        assert scores.bleu_signature.startswith(f"nrefs:{len(sets)}|")
        assert scores.chrf_signature.startswith(f"nrefs:{len(sets)}|")
        assert scores.bleu > evaluation.bleu(a, first, "en")
        _, theirs = PairedTest([("a", a), ("b", b)], {"BLEU": BLEU(references=sets)}, None, "bs", 200)()
        mine = evaluation.paired_bootstrap(a, b, sets, "en", samples=200)
        assert (mine.a, mine.b) == pytest.approx(tuple(result.score for result in theirs["BLEU"]))
        assert mine.p == pytest.approx(theirs["BLEU"][1].p_value, abs=1e-3)
        assert sum(bucket.sentences for bucket in evaluation.by_length(a, sets, "en")) == 200
        found = evaluation.worst(a, sets, 1)[0]
        assert [found.reference, *found.others] == [lines[found.number] for lines in sets]
    with pytest.raises(RegardError, match="200 translations and 199 references in set 2"):
        evaluation.corpus_scores(a, [first, second[1:]], "en")


def test_bleu_by_length_counts_every_sentence_once():
    references = ["short one", *REFERENCES, "long " * 80]
    buckets = evaluation.by_length(references, references, "en")
    assert sum(bucket.sentences for bucket in buckets) == len(references)
    assert all(bucket.length_ratio == 1.0 for bucket in buckets)
    assert buckets[-1].high >= 80 and buckets[0].low == 0
    assert evaluation.by_length(["我爱机器学习"], ["我爱机器学习"], "zh")[0].low == 6  # characters, not one "word"


def test_the_worst_sentences():
    hypotheses = list(REFERENCES)
    hypotheses[3] = "qqq"
    hypotheses[1] = "Two dogs xyzzy xyzzy"
    found = evaluation.worst(hypotheses, REFERENCES, 2)
    assert [sentence.number for sentence in found] == [3, 1]
    assert found[0].hypothesis == "qqq" and found[0].reference == REFERENCES[3]


def test_perplexity():
    assert evaluation.perplexity([[math.log(0.5)] * 3, [math.log(0.5)]]) == pytest.approx(2.0)
    assert evaluation.perplexity([[-1e9]]) == math.inf
    with pytest.raises(RegardError):
        evaluation.perplexity([])


def test_wrong_counts_are_errors():
    for wrong in ((["a"], []), ([], [])):
        with pytest.raises(RegardError):
            evaluation.corpus_scores(*wrong, "en")


def test_scores_of_labels_are_scikit_learns():
    metrics = pytest.importorskip("sklearn.metrics")
    draw = np.random.default_rng(3)
    names = ["积极", "neutral", "negative", "never there"]
    for count in (1, 7, 200):
        true = draw.integers(0, 3, count)
        predicted = np.where(draw.random(count) < 0.7, true, draw.integers(0, 3, count))
        found = label_scores(true, predicted, names)
        assert found.accuracy == metrics.accuracy_score(true, predicted)
        assert found.macro_f1 == pytest.approx(metrics.f1_score(true, predicted, average="macro", zero_division=0))
        assert np.array_equal(found.confusion, metrics.confusion_matrix(true, predicted, labels=range(4)))
        theirs = metrics.precision_recall_fscore_support(true, predicted, labels=range(4), zero_division=0)
        assert [list(row[1:5]) for row in found.labels] == [pytest.approx(row) for row in np.transpose(theirs).tolist()]
        assert [row.label for row in found.labels] == names
        assert 0 <= found.low <= found.accuracy <= found.high <= 1 and found.count == count


def test_wilsons_interval():
    # Newcombe 1998, table 1: 81 of 263, 15 of 148, 0 of 20 and 1 of 29, method 3
    for right, count, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611)):
        assert wilson(right, count) == pytest.approx((low, high), abs=5e-5)
    assert wilson(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)
    assert wilson(5, 5)[1] == 1.0


def test_labels_that_cannot_be_scored():
    for wrong in (([], []), ([0], [0, 1]), ([0], [2]), ([-1], [0])):
        with pytest.raises(RegardError):
            label_scores(*wrong, ["a", "b"])
