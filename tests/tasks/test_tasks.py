"""Every task end to end: trained by ``regard train``, resumed, validated, loaded by ``regard.load`` and used."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args, get_type_hints

import pytest

import regard
from regard import directory
from regard.cli.main import main
from regard.directory import save
from regard.errors import RegardError
from regard.models import description, registry
from regard.models.encoder import Encoder
from regard.pipelines.classifier import Classifier
from regard.pipelines.filler import Filler
from regard.pipelines.generator import Generator
from regard.schema import COLUMNS_OF, Config, DataConfig
from regard.tasks import TASKS, metric_of, pipeline_of, task_named

WORDS = ["the", "king", "and", "queen", "of", "all", "lands", "go", "to", "sea", "in", "good", "ships", "with", "gold"]
MODEL = (
    "--set",
    "model.width=32",
    "--set",
    "model.layers=1",
    "--set",
    "model.heads=2",
    "--set",
    "model.feedforward=32",
)
BRIEF = ("--steps", "6", "--save-every", "3", "--validate-every", "3", "--log-every", "3", "--device", "cpu")


def text(lines: int) -> str:
    draw = random.Random(1)
    return "".join(" ".join(draw.choices(WORDS, k=8)).capitalize() + ".\n" for _ in range(lines))


def labelled(rows: int, seed: int = 1) -> str:
    """Sentences that have "gold" in them are rich; all have six words, so that their length tells nothing."""
    draw, lines = random.Random(seed), ["text\tlabel"]
    for _ in range(rows):
        words = draw.choices(WORDS[:-1], k=6)
        if draw.random() < 0.5:
            words[draw.randrange(6)] = "gold"
        lines.append(f"{' '.join(words)}\t{'rich' if 'gold' in words else 'poor'}")
    return "\n".join(lines) + "\n"


@pytest.fixture
def corpora(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "plays.txt").write_text(text(300), "utf-8")
    (tmp_path / "wealth.tsv").write_text(labelled(300), "utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["train", *arguments, "--json"]) == 0, capsys.readouterr().err
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_language_model(corpora: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = train(capsys, "plays.txt", "-o", "run", "--max-length", "32", "--batch-tokens", "256", *MODEL, *BRIEF)
    assert found["step"] == 6 and found["loss"] > 0 and found["perplexity"] > 1
    generator = regard.load("run")
    assert isinstance(generator, Generator)
    (one,) = generator.generate(["The king"], max_tokens=5, temperature=0)
    assert one.text
    config = json.loads((corpora / "run" / "config.json").read_text("utf-8"))
    assert config["task"] == "language_model" and config["format_version"] == 2
    rows = [json.loads(line) for line in (corpora / "run" / "metrics.jsonl").read_text("utf-8").splitlines()]
    samples = next(row for row in rows if row["kind"] == "validation")["samples"]
    assert samples and all(sample["source"] for sample in samples)


def test_masked_words(corpora: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = train(
        capsys, "plays.txt", "--task", "masked", "-o", "run", "--max-length", "24", "--batch-tokens", "256", *MODEL,
        *BRIEF,
    )  # fmt: skip
    assert found["step"] == 6 and 0 <= found["accuracy"] <= 1
    rows = [json.loads(line) for line in (corpora / "run" / "metrics.jsonl").read_text("utf-8").splitlines()]
    samples = next(row for row in rows if row["kind"] == "validation")["samples"]
    for sample in samples:
        assert 1 <= sample["source"].count("[MASK]") == len(sample["hypothesis"].split())
        assert len(sample["source"].split()) <= 24
        assert len(sample["reference"].split()) == len(sample["hypothesis"].split())
    assert samples
    filler = regard.load("run")
    assert isinstance(filler, Filler)
    assert filler.fill(["The king and [MASK] of all lands."], k=2)


def test_a_classifier_learns(corpora: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["-o", "run", "--batch-tokens", "512", *MODEL, "--learning-rate", "0.01", "--warmup-steps", "10"]
    found = train(capsys, "wealth.tsv", *arguments, "--steps", "80", "--validate-every", "40", "--device", "cpu")
    assert found["accuracy"] > 0.9 and found["macro_f1"] > 0.9
    classifier = regard.load("run")
    assert isinstance(classifier, Classifier)
    rich, poor = classifier.classify(["good king of gold", "good king of sea"])
    assert (rich.label, poor.label) == ("rich", "poor")
    assert json.loads((corpora / "run" / "config.json").read_text("utf-8"))["options"]["labels"] == ["poor", "rich"]


def test_a_classifier_goes_on_with_its_own_labels(corpora: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(capsys, "wealth.tsv", "-o", "run", *MODEL, *BRIEF)
    rows = labelled(300).replace("poor", "needy")
    (corpora / "other.tsv").write_text(rows, "utf-8")
    assert main(["train", "other.tsv", "--init", "run", "-o", "other", "--valid", "wealth.tsv", *BRIEF]) == 2
    line = 1 + next(number for number, row in enumerate(rows.splitlines()) if row.endswith("needy"))
    told = f"other.tsv:{line}: the label 'needy' is none of the 2 of the model to start from: expected one of poor, "
    assert told in capsys.readouterr().err
    assert train(capsys, "wealth.tsv", "--init", "run", "-o", "more", *BRIEF)["step"] == 6


@pytest.mark.parametrize("task", ["language_model", "masked", "classification"])
def test_a_stopped_run_goes_on_to_the_same_bits(task: str, corpora: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = "wealth.tsv" if task == "classification" else "plays.txt"
    given = [file, "--task", task, "--max-length", "24", "--batch-tokens", "256", *MODEL, *BRIEF]
    train(capsys, *given, "-o", "whole")
    steps = [word if word != "6" else "4" for word in given]
    train(capsys, *steps, "-o", "parts")
    train(capsys, "--resume", "parts", "--steps", "6", "--device", "cpu")
    weights = [(corpora / run / "model.safetensors").read_bytes() for run in ("whole", "parts")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["plays.txt", "--task", "language_model", "--architecture", "encoder"], "expected --architecture decoder"),
        (["plays.txt", "--task", "masked", "--architecture", "decoder"], "predicts no masked words: expected encoder"),
        (["wealth.tsv", "--architecture", "decoder"], "gives no labels: expected encoder"),
        (["wealth.tsv", "--metric", "bleu"], "training.metric = 'bleu': task 'classification' measures accuracy"),
        (["plays.txt", "--subword-dropout", "0.1"], "data.subword_dropout is for corpora of single examples"),
        (
            ["plays.txt", "--batch-tokens", "200"],
            "training.batch_tokens = 200 is less than a block of data.max_length = ",
        ),
        (
            ["plays.txt", "--task", "masked", "--max-length", "64", "--batch-tokens", "65"],
            "training.batch_tokens = 65 is less than a block of data.max_length = 64 and 2 marks: raise it",
        ),
        (
            ["wealth.tsv", "--set", "model.head=spans"],
            "model.head = 'spans': expected text_labels, the head of task = ",
        ),
        (
            ["plays.txt", "--task", "masked", "--set", "model.head=text_labels"],
            "model.head = 'text_labels': expected masked_words, the head of task = 'masked'",
        ),
        (["wealth.tsv", "--set", 'model.labels=["a", "b"]'], "model.labels = ('a', 'b'): the corpus names them: leave"),
        (["wealth.tsv", "--rdrop", "1"], "training.rdrop = 1.0: expected 0"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_written(
    arguments: list[str], words: str, corpora: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *arguments, "-o", "run"]) == 2
    assert words in capsys.readouterr().err
    assert not (corpora / "run").exists()


@pytest.mark.parametrize(("model", "expected"), [({}, True), ({"segments": 0}, False), ({"segments": 1}, False)])
def test_a_second_text_has_a_segment_where_the_model_has_one(model: dict[str, Any], expected: bool) -> None:
    data = DataConfig(train=("a.tsv",), valid="b.tsv", pair="claim")
    config = Config(task="classification", data=data, model={"architecture": "encoder", **model})
    prepared: Any = SimpleNamespace(tokenizer=SimpleNamespace(id_of=lambda name: 2))
    assert task_named("classification").settings(config, prepared).segments == expected


def test_the_table_of_tasks() -> None:
    assert TASKS.keys() == set(description.TASKS)
    assert all(pipeline_of(name) for name, entry in TASKS.items() if entry.verb)
    for name in ("spans", "embedding"):
        with pytest.raises(RegardError, match=f"task = '{name}': no pipeline runs models of this task yet"):
            pipeline_of(name)
    for name, entry in TASKS.items():
        if entry.task:
            task = task_named(name)
            assert task.name == name and set(task.metrics) <= {"bleu", "loss", "accuracy", "macro_f1"}
            assert set(task.metrics) <= task.figures.keys()
    with pytest.raises(RegardError, match="no such task — did you mean 'tagging'"):
        pipeline_of("taging")
    with pytest.raises(RegardError, match="'tagging': models of this task cannot be trained yet; expected one of tran"):
        task_named("tagging")


def test_a_model_that_no_verb_runs_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = Encoder(width=8, heads=2, feedforward=8, layers=1)
    save(tmp_path / "states", options.build(9), options, None, None, task="embedding", vocabulary=(9, None))
    for verb in ("classify", "generate", "translate"):
        assert main([verb, str(tmp_path / "states"), os.devnull]) == 2
        assert "states: a model of task 'embedding': no verb runs one yet" in capsys.readouterr().err


def test_the_schema_knows_the_tasks_and_the_keys_of_their_columns() -> None:
    trained = {name for name, entry in TASKS.items() if entry.task}
    assert trained == COLUMNS_OF.keys() == set(get_args(get_type_hints(Config)["task"]))
    for name, keys in COLUMNS_OF.items():
        data = DataConfig(train=("a",), valid="a", **{key: key for key in keys})  # type: ignore[arg-type]
        assert [column.key for column in task_named(name).columns(data)] == list(keys)


def test_the_metric_of_a_task(tiny: Callable[..., Config]) -> None:
    assert metric_of(tiny()) == "bleu" and metric_of(tiny(**{"training.metric": "loss"})) == "loss"
    assert registry.capabilities("encoder").labels


def test_labels_have_the_numbers_of_the_model_to_start_from(corpora: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its labels are not sorted, and one of them is not in the corpus."""
    train(capsys, "wealth.tsv", "-o", "run", *MODEL, *BRIEF)
    first = directory.load("run")
    options = replace(first.options, labels=("rich", "middling", "poor"))
    directory.save(
        "unsorted", options.build(*first.vocabulary), options, first.settings, first.tokenizer, task="classification"
    )
    rates = ["--batch-tokens", "512", "--learning-rate", "0.01", "--warmup-steps", "10"]
    steps = ["--steps", "80", "--validate-every", "40", "--device", "cpu"]
    assert train(capsys, "wealth.tsv", "--init", "unsorted", "-o", "more", *rates, *steps)["accuracy"] > 0.9
    assert directory.load("more").options.labels == ("rich", "middling", "poor")
    found = regard.load("more").classify(["good king of gold", "good king of sea"])
    assert [one.label for one in found] == ["rich", "poor"]


def test_a_classifier_of_pairs_says_how_it_is_run(corpora: Path, capsys: pytest.CaptureFixture[str]) -> None:
    header, *rows = labelled(100).splitlines()
    pairs = [f"king\t{row}" for row in rows]
    (corpora / "pairs.tsv").write_text("\n".join([f"first\t{header}", *pairs]) + "\n", "utf-8")
    assert main(["train", "pairs.tsv", "--pair", "first", "-o", "run", *MODEL, *BRIEF]) == 0
    command = "regard classify run first.txt --pair second.txt"
    assert f"try it: {command}\n" in capsys.readouterr().err
    assert f"```\n{command}\n```" in (corpora / "run" / "README.md").read_text("utf-8")
