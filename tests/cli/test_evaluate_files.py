"""``regard evaluate MODEL FILE``: a classifier on labelled texts."""

from __future__ import annotations

import json
import math
import random
import shutil
from pathlib import Path

import pytest
from rich.cells import cell_len

from regard.cli.report import table
from regard.evaluation.labels import label_scores

from .encoders import LABELS, Run, refused_here

WORDS = ["the", "capital", "of", "france", "is", "paris", "a", "b", "c", ".", ",", "!", "我", "爱"]


def rows(count: int = 40) -> list[tuple[str, str]]:
    draw = random.Random(2)
    return [(" ".join(draw.choices(WORDS, k=draw.randint(1, 6))), draw.choice(LABELS)) for _ in range(count)]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """The same examples as TSV with names, TSV without, CSV and JSON lines."""
    examples = rows()
    plain = "".join(f"{text}\t{label}\n" for text, label in examples)
    (tmp_path / "named.tsv").write_text(f"text\tlabel\n{plain}", "utf-8")
    (tmp_path / "bare.tsv").write_text(plain, "utf-8")
    (tmp_path / "some.csv").write_text("review,stars\n" + "".join(f'"{t}",{label}\n' for t, label in examples), "utf-8")
    lines = [json.dumps({"id": n, "text": text, "label": label}) for n, (text, label) in enumerate(examples)]
    (tmp_path / "some.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    return tmp_path


def test_the_scores_are_those_of_what_classify_prints(run: Run, files: Path) -> None:
    examples = rows()
    texts = "".join(f"{text}\n" for text, _ in examples)
    predicted = run("classify", "classification", input=texts.encode())[1].splitlines()
    true = [LABELS.index(label) for _, label in examples]
    expected = label_scores(true, [LABELS.index(label) for label in predicted], LABELS)
    code, out, _ = run("evaluate", "classification", "named.tsv", "--json", "--worst", 3)
    assert code == 0
    report = json.loads(out)
    assert report["accuracy"] == expected.accuracy and report["macro_f1"] == expected.macro_f1
    assert (report["low"], report["high"], report["examples"]) == (expected.low, expected.high, 40)
    assert report["confusion"] == expected.confusion.tolist()
    assert [one["label"] for one in report["labels"]] == list(LABELS)
    assert report["labels"][0]["precision"] == expected.labels[0].precision
    assert len(report["worst"]) == 3
    for one in report["worst"]:
        number = int(one["where"].removeprefix("named.tsv:")) - 2  # the first line has names
        assert (one["text"], one["label"]) == examples[number]
        assert one["predicted"] == predicted[number] != one["label"]
    assert [one["probability"] for one in report["worst"]] == sorted(
        (one["probability"] for one in report["worst"]), reverse=True
    )


def test_every_kind_of_file_and_of_columns(run: Run, files: Path) -> None:
    reports = []
    for arguments in (
        ("named.tsv",),
        ("bare.tsv", "--text", "0", "--label", "1"),
        ("some.csv", "--text", "review", "--label", "stars"),
        ("some.jsonl",),
    ):
        code, out, err = run("evaluate", "classification", *arguments, "--json")
        assert code == 0, err
        reports.append({key: value for key, value in json.loads(out).items() if key != "file"})
    assert reports[0] == reports[1] == reports[2] == reports[3]


def test_a_run_remembers_its_columns(run: Run, encoders: Path, files: Path) -> None:
    shutil.copytree(encoders / "classification", files / "run")
    (files / "run" / "run.toml").write_text(
        'task = "classification"\n[data]\ntrain = ["a.csv"]\nvalid = "b.csv"\ntext = "review"\nlabel = "stars"\n'
        '[model]\narchitecture = "encoder"\n',
        "utf-8",
    )
    columns = ("--text", "review", "--label", "stars")
    wanted = json.loads(run("evaluate", "classification", "some.csv", *columns, "--json")[1])["accuracy"]
    code, out, err = run("evaluate", str(files / "run"), "some.csv", "--json")
    assert code == 0, err
    assert json.loads(out)["accuracy"] == wanted
    assert "'review'" in refused_here(run("evaluate", str(files / "run"), "named.tsv"))
    assert run("evaluate", str(files / "run"), "named.tsv", "--text", "text", "--label", "label")[0] == 0


def test_the_report_for_people(run: Run, files: Path) -> None:
    code, out, err = run("evaluate", "classification", "named.tsv", "--worst", 2)
    assert code == 0
    assert "the first line names the columns: text is 'text', label is 'label'" in err
    for wanted in (
        "accuracy ",
        " % (95 %: ",
        "macro-F1 ",
        "40 examples",
        "precision",
        "true ↓ predicted →",
        "named.tsv:",
    ):
        assert wanted in out, out
    lines = out.splitlines()
    matrix = lines.index(next(line for line in lines if line.startswith("true ↓")))
    assert len({cell_len(line) for line in lines[matrix : matrix + 4]}) == 1


def test_pairs_of_texts(run: Run, tmp_path: Path) -> None:
    examples = rows(12)
    (tmp_path / "pairs.tsv").write_text(
        "text\tother\tlabel\n" + "".join(f"{text}\t{examples[-1][0]}\t{label}\n" for text, label in examples), "utf-8"
    )
    (tmp_path / "one").write_text("".join(f"{text}\n" for text, _ in examples), "utf-8")
    (tmp_path / "two").write_text(f"{examples[-1][0]}\n" * 12, "utf-8")
    predicted = run("classify", "classification", "one", "--pair", "two")[1].splitlines()
    code, out, err = run("evaluate", "classification", "pairs.tsv", "--pair", "other", "--json", "--worst", 1)
    assert code == 0, err
    right = sum(label == mine for (_, label), mine in zip(examples, predicted, strict=True))
    assert json.loads(out)["accuracy"] == right / 12
    assert json.loads(out)["worst"][0]["pair"] == examples[-1][0]


def test_what_is_refused(run: Run, files: Path) -> None:
    def message(task: str, *arguments: object) -> str:
        return refused_here(run("evaluate", task, *arguments))

    (files / "wrong.tsv").write_text("text\tlabel\na\tgood\nb\tgod\n", "utf-8")
    assert message("classification", "wrong.tsv").startswith("wrong.tsv:3: the label 'god' is none of the model's: ")
    assert "did you mean 'good'?" in message("classification", "wrong.tsv")
    (files / "empty.tsv").write_text("", "utf-8")
    assert "empty.tsv" in message("classification", "empty.tsv")
    (files / "names.tsv").write_text("text\tlabel\n", "utf-8")
    assert "names.tsv" in message("classification", "names.tsv")
    (files / "blank.tsv").write_text("text\tlabel\na\t\n", "utf-8")
    assert "blank.tsv:2" in message("classification", "blank.tsv")
    (files / "nul.tsv").write_text("text\tlabel\na\0\tgood\n", "utf-8")
    assert "nul.tsv:2" in message("classification", "nul.tsv")
    (files / "plain.txt").write_text("a\n", "utf-8")
    assert "expected texts with labels" in message("classification", "plain.txt")
    assert "no such file" in message("classification", "none.tsv")
    assert "--reference means nothing beside a FILE" in message("classification", "named.tsv", "--reference", "x")
    assert "--beam means nothing beside a FILE" in message("classification", "named.tsv", "--beam", 5)
    assert "--label means nothing beside --source" in message("classification", "--source", "x", "--label", "y")
    assert "nothing to evaluate on" in message("classification")
    assert "task is masked, which has no scores on a FILE" in message("masked", "named.tsv")
    wanted = message("classification", "--source", "bare.tsv", "--reference", "bare.tsv")
    assert wanted.endswith("it is run by: regard classify")


def test_a_language_model_predicts_a_text(run: Run, files: Path) -> None:
    text = "the capital of france is paris . " * 30
    (files / "text.txt").write_text(text, "utf-8")
    code, out, err = run("evaluate", "language_model", "text.txt", "--json")
    assert code == 0, err
    report = json.loads(out)
    assert report["tokens"] == 7 * 30 and report["characters"] == len(text)  # after the start mark, each is predicted
    assert report["perplexity"] == pytest.approx(math.exp(report["loss"]))
    assert report["bits_per_character"] == pytest.approx(report["loss"] * 210 / math.log(2) / len(text))
    code, out, _ = run("evaluate", "language_model", "text.txt")
    assert f"loss {report['loss']:.4f} nats a token" in out and "bits a character" in out
    (files / "two.jsonl").write_text('{"text": "the capital"}\n{"text": "of france"}\n', "utf-8")
    assert json.loads(run("evaluate", "language_model", "two.jsonl", "--json")[1])["tokens"] == 6  # with two end marks
    for name, content in (("empty.txt", b""), ("nul.txt", b"a\0"), ("not.txt", b"\xff\xfe\xfd")):
        (files / name).write_bytes(content)
        assert name in refused_here(run("evaluate", "language_model", name))
    assert "--worst, --label" in refused_here(run("evaluate", "language_model", "text.txt", "--worst", 1))
    assert "text.txt: a plain text has no columns" in refused_here(
        run("evaluate", "language_model", "text.txt", "--text", "x")
    )


def test_long_texts_and_hostile_labels(run: Run, files: Path) -> None:
    (files / "long.tsv").write_text("text\tlabel\na\tgood\n" + "the " * 5000 + "\tbad\n", "utf-8")
    code, _, err = run("evaluate", "classification", "long.tsv")
    assert code == 0 and "long.tsv:3 has 5,000 subwords" in err
    (files / "steer.tsv").write_text("text\tlabel\na\t\x1b[2J" + "x" * 999 + "\n", "utf-8")
    message = refused_here(run("evaluate", "classification", "steer.tsv"))
    assert "\x1b" not in message and len(message) < 400


def test_tables_are_aligned_in_cells() -> None:
    lines = table([["label", "F1"], ["积极", "100.00"], ["x" * 99, "1"], ["a\x1b[2J", "2"]])
    assert len({cell_len(line) for line in lines}) == 1
    assert "…" in lines[2] and "\x1b" not in "".join(lines)
