"""``regard train`` with a text or a labelled table: the task by the corpus, the recipe, and what is refused."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from .conftest import Regard, pairs, refused

ROWS = [(f"{'good' if number % 3 else 'bad'} film {number}", "pos" if number % 3 else "neg") for number in range(60)]


def table(path: Path, rows: list[tuple[str, str]] = ROWS, header: str = "text\tlabel") -> None:
    path.write_text("".join(f"{line}\n" for line in (header, *map("\t".join, rows)) if line), "utf-8")


def planned(regard: Regard, folder: Path, *arguments: str) -> dict[str, Any]:
    done = regard("train", *arguments, "--print-config", cwd=folder)
    assert done.returncode == 0, done.stderr.decode()
    return tomllib.loads(done.stdout.decode())


def test_the_task_is_that_of_the_corpus(regard: Regard, tmp_path: Path) -> None:
    table(tmp_path / "labelled.tsv")
    table(tmp_path / "pairs.tsv", pairs(60, seed=1), "zh\ten")
    (tmp_path / "poem.txt").write_text("roses are red\n" * 40, "utf-8")
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text, _ in ROWS), "utf-8")
    found = {}
    for name in ("labelled.tsv", "pairs.tsv", "poem.txt", "texts.jsonl"):
        config = planned(regard, tmp_path, name)
        found[name] = (
            config["task"],
            config["model"]["architecture"],
            config["data"]["train"],
            config["data"]["valid"],
        )
    assert found == {
        "labelled.tsv": (
            "classification", "encoder", ["runs/labelled/corpus/train.jsonl"], "runs/labelled/corpus/valid.jsonl",
        ),
        "pairs.tsv": ("translation", "transformer", ["runs/zh-en/corpus/train"], "runs/zh-en/corpus/valid"),
        "poem.txt": ("language_model", "decoder", ["runs/poem/corpus/train.txt"], "runs/poem/corpus/valid.txt"),
        "texts.jsonl": (
            "language_model", "decoder", ["runs/texts/corpus/train.jsonl"], "runs/texts/corpus/valid.jsonl",
        ),
    }  # fmt: skip
    assert not (tmp_path / "runs").exists()
    assert planned(regard, tmp_path, "poem.txt", "--preset", "small")["model"]["architecture"] == "decoder"
    masked = planned(regard, tmp_path, "poem.txt", "--task", "masked", "--valid", "poem.txt", "-o", "out")
    assert (masked["task"], masked["model"]["architecture"]) == ("masked", "encoder")


def test_keys_and_a_validation_corpus_may_be_given(regard: Regard, tmp_path: Path) -> None:
    table(tmp_path / "a.tsv", header="said\tstars")
    table(tmp_path / "b.tsv", header="said\tstars")
    config = planned(regard, tmp_path, "a.tsv", "--text", "said", "--label", "stars", "--valid", "b.tsv")
    assert config["task"] == "classification" and config["data"]["train"] == ["a.tsv"]
    assert (config["data"]["text"], config["data"]["label"], config["data"]["valid"]) == ("said", "stars", "b.tsv")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            "a.tsv --task classify",
            "configuration: task = 'classify': expected one of translation, language_model, masked",
        ),
        ("a.tsv b.tsv --task classification", "a.tsv and b.tsv: expected one file; two are the sides of a translation"),
        ("poem.txt --task classification", "poem.txt: expected texts with labels in a .tsv, .csv or .jsonl file"),
        ("poem.txt --task translation", "poem.txt: a translation needs two text files, or one of pairs"),
        (
            "poem.txt --label x",
            "configuration: data.label is not of task 'language_model', whose columns are data.text",
        ),
        ("a.tsv --label stars", "a.tsv:1: data.label = 'stars': no column of that name in the first line"),
        ("one.tsv", "one.tsv: no text of 1 can be held out for validation without its like staying in training"),
        ("poem.txt --text x", "poem.txt: a plain text has no columns: leave out --text x (data.text)"),
        ("empty.tsv", "empty.tsv:3: the label is empty: expected one in every row"),
        ("none.tsv", "none.tsv: the corpus is empty"),
        (
            "bare.tsv",
            "bare.tsv: the columns name no languages; say --source-language and --target-language; for texts with "
            "labels say --task classification --text 0 --label 1",
        ),
        ("short.txt", "short.txt: 1 character: too few to train on and to hold out a tenth"),
    ],
)
def test_what_is_refused(arguments: str, expected: str, regard: Regard, tmp_path: Path) -> None:
    for name, rows in (("a", ROWS), ("b", ROWS), ("one", ROWS[:1]), ("empty", [*ROWS[:1], ("bad", "")])):
        table(tmp_path / f"{name}.tsv", rows)
    (tmp_path / "poem.txt").write_text("roses are red\n" * 40, "utf-8")
    (tmp_path / "none.tsv").write_text("", "utf-8")
    table(tmp_path / "bare.tsv", header="")
    (tmp_path / "short.txt").write_text("a", "utf-8")
    assert refused(regard("train", *arguments.split(), cwd=tmp_path)).startswith(expected)
    assert not (tmp_path / "runs").exists()
