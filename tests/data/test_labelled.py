"""Labelled texts: columns are found or asked for, labels are checked, and each fault names its file and line."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from by_task import columns_of, prepare
from regard.config import Config, DataConfig
from regard.data import labels as module
from regard.data.examples import kind_of, read_examples
from regard.data.holdout import survey
from regard.data.prepare import Prepared
from regard.errors import RegardError

ROWS = [("good film", "pos"), ("bad film", "neg"), ("a bad, bad one", "neg"), ("so good", "pos"), ("fine", "pos")]


def config(train: Path | str, valid: Path | str = "", **data: Any) -> Config:
    values = {"train": (str(train),), "valid": str(valid or train), "vocabulary": 330, "max_length": 64, **data}
    return Config(task="classification", data=DataConfig(**values))


def table(path: Path, rows: list[tuple[str, ...]] = ROWS, *first: tuple[str, ...], delimiter: str = "\t") -> Path:
    path.write_text("".join(delimiter.join(row) + "\n" for row in (*first, *rows)), "utf-8")
    return path


def lines(path: Path, items: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(item) + "\n" for item in items), "utf-8")
    return path


def read(path: Path, **data: Any) -> list[tuple[str, ...]]:
    chosen = config(path, **data)
    return [example.values for example in read_examples(str(path), chosen.data, columns_of(chosen))]


def fault(path: Path, **data: Any) -> str:
    """The one line that refuses a corpus, without the folder."""
    with pytest.raises(RegardError) as caught:
        prepare(config(path, **data), path.parent / "data")
    message = str(caught.value)
    assert "\n" not in message and not (path.parent / "data").exists()
    return message.replace(f"{path.parent}/", "")


@pytest.mark.parametrize(
    ("header", "keys"),
    [
        (("text", "label"), {}), (("Review", "Class"), {}), (("文本", "标签"), {}), (("comment", "sentiment"), {}),
        (("whatever", "label"), {}), (("sentence", "stars"), {}), (("said", "stars"), {"text": "said"}),
        (("said", "stars"), {"label": "stars"}), (("text", "label"), {"text": "0", "label": "1"}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("ending", ["tsv", "csv"])
def test_columns_are_found_by_key_by_name_or_as_the_only_other(
    header: tuple[str, str], keys: dict[str, str], ending: str, tmp_path: Path
) -> None:
    rows = [("good film", "pos"), ("bad film", "neg")]
    path = table(tmp_path / f"a.{ending}", rows, header, delimiter="\t" if ending == "tsv" else ",")
    assert read(path, **keys) == rows
    turned = table(tmp_path / f"b.{ending}", [row[::-1] for row in rows], header[::-1])
    if not any(key.isdecimal() for key in keys.values()):
        assert read(turned, **keys) == rows


def test_numbers_of_columns_need_no_names(tmp_path: Path) -> None:
    path = table(tmp_path / "a.tsv", [("7", label, text) for text, label in ROWS])
    assert read(path, text="2", label="1") == ROWS
    assert read(table(tmp_path / "b.tsv"), label="1") == ROWS, "the other one is the text"
    assert fault(path).startswith("a.tsv:1: which of these columns are the text and the label? 0 '7', 1 'pos', 2 'goo")
    assert fault(path).endswith("say it by name or number, with --text and --label (data.text, data.label)")
    assert fault(path, text="2", label="3").startswith("a.tsv:1: data.label = 3: there are 3 columns, counted from 0")
    assert "data.label = 'stars': no column of that name in the first line" in fault(path, label="stars")
    assert "which of these columns" in fault(path, text="2", label="2"), "one column cannot be both"


def test_a_column_by_number_keeps_the_first_row(tmp_path: Path) -> None:
    rows = [(str(number), f"the cat {number}", "bad" if number % 2 else "good", "no") for number in range(6)]
    path = table(tmp_path / "a.tsv", rows)
    assert read(path, text="1", label="2") == [row[1:3] for row in rows]
    assert "which of these columns" in fault(path, text="1"), "a cell 'no' is not taken for a name"
    assert "which of these columns" in fault(table(tmp_path / "b.tsv", ROWS, ("text", "stars")), label="1"), "a row?"
    assert read(table(tmp_path / "c.tsv", [("7", *row) for row in ROWS], ("id", "text", "label")), label="2") == ROWS


def test_two_columns_of_one_name_are_asked_for(tmp_path: Path) -> None:
    path = table(tmp_path / "a.tsv", [(*row, "7") for row in ROWS], ("text", "label", "label"))
    assert fault(path).startswith("a.tsv:1: which of these columns is the label? 0 'text', 1 'label', 2 'label'; say")
    assert read(path, label="1") == ROWS


def test_an_identifier_beside_them_is_neither(tmp_path: Path) -> None:
    path = table(tmp_path / "a.tsv", [("1", *row) for row in ROWS], ("id", "said", "label"))
    assert read(path) == ROWS
    assert "which of these columns" in fault(table(tmp_path / "b.tsv", [("1", *ROWS[0])], ("who", "said", "label")))


def test_two_texts_are_classified_together(tmp_path: Path) -> None:
    rows = [("a man eats", "he eats", "yes"), ("a man eats", "he sleeps", "no")]
    path = table(tmp_path / "a.tsv", rows, ("text", "claim", "label"))
    assert read(path, pair="claim") == rows
    prepared = prepare(config(path, pair="claim"), tmp_path / "data")
    assert [column.name for column in prepared.train.columns] == ["text", "pair", "label"]
    assert prepared.train.text(1, 1) == "he sleeps" and prepared.train.ids(2, 1).tolist() == [0]
    assert prepared.report.found == {"overlap": (2, f"{path}:2 = {path}:2")}, "the same premise is no repetition"


def test_labels_of_json_are_texts_numbers_or_booleans(tmp_path: Path) -> None:
    items = [{"review": "a", "label": 1}, {"review": "b", "label": True}, {"label": "x", "review": "c"}]
    path = lines(tmp_path / "a.jsonl", items)
    assert read(path) == [("a", "1"), ("b", "true"), ("c", "x")]
    nested = lines(tmp_path / "b.jsonl", [{"data": {"said": "a"}, "meta": {"stars": 5}}])
    assert read(nested, text="data.said", label="meta.stars") == [("a", "5")]
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert read(tmp_path / "c.jsonl.gz") == read(path)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"text": "a"}', "2: no key 'label' among ['text']; name the label's key with --label (data.label)"),
        ('{"label": "a"}', "2: no key 'text' among ['label']; name the text's key with --text (data.text)"),
        ('{"text": "a", "label": null}', "2: the label 'label' is None: expected a text, a whole number or a boolean"),
        ('{"text": "a", "label": 0.5}', "2: the label 'label' is 0.5: expected a text, a whole number or a boolean"),
        ('{"text": "a", "label": ["b"]}', "2: the label 'label' is ['b']: expected"),
        ('{"text": 3, "label": "b"}', "2: 'text' is not a text but int"),
        ('{"text": "a", "label": " "}', "2: the label is empty: expected one in every row"),
        ('{"text": "a\\u0000", "label": "b"}', "2: has a NUL character"),
        ('["a", "b"]', "2: expected a JSON object, found list"),
        ('{"text": "a"', "2: not JSON"),
    ],
)
def test_faults_of_json_lines(line: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "good", "label": "pos"}\n' + line + "\n", "utf-8")
    assert fault(path).startswith(f"a.jsonl:{expected}")


def test_faults_of_tables(tmp_path: Path) -> None:
    path = table(tmp_path / "a.tsv", [*ROWS, ("a tab\tin the text", "pos")], ("text", "label"))
    assert fault(path).startswith("a.tsv:7: 3 columns, and the first line has 2: every line needs as many")
    last = table(tmp_path / "b.tsv", [("pos", "good"), ("neg", "a tab\tin the text")], ("label", "text"))
    assert fault(last).startswith("b.tsv:3: 3 columns, and the first line has 2")
    assert fault(table(tmp_path / "c.tsv", [*ROWS, ("none", " ")], ("text", "label"))) == (
        "c.tsv:7: the label is empty: expected one in every row"
    )
    assert fault(table(tmp_path / "d.tsv", [("only",)], ("text",))).startswith(
        "d.tsv:1: which of these columns is the label?"
    )
    assert fault(table(tmp_path / "e.tsv", [], ("text", "label"))) == "e.tsv: the corpus is empty"
    assert fault(tmp_path / "f.tsv") == "f.tsv: no such file"
    (tmp_path / "g.txt").write_text("good\n")
    assert fault(tmp_path / "g.txt") == "g.txt: expected texts with labels in a .tsv, .csv or .jsonl file"
    both = config(tmp_path / "a.tsv", valid=tmp_path / "a.tsv").data
    with pytest.raises(RegardError, match="expected one file; two are the sides of a translation"):
        list(read_examples(("a.tsv", "b.tsv"), both, columns_of(config("a"))))


def test_labels_are_those_of_training_sorted(tmp_path: Path) -> None:
    train = table(tmp_path / "train.tsv", [*ROWS, ("odd", " 10 "), ("even", "2")], ("text", "label"))
    valid = table(tmp_path / "valid.tsv", ROWS[:2], ("text", "label"))
    said: list[str] = []
    prepared = prepare(config(train, valid), tmp_path / "data", say=said.append)
    assert prepared.labels == ("10", "2", "neg", "pos")
    assert "4 labels: 10 (1), 2 (1), neg (2), pos (3)" in said
    assert f"{train}: the first line names the columns: text is 'text', label is 'label'" in said
    assert [int(prepared.train.ids(1, index)[0]) for index in range(7)] == [3, 2, 2, 3, 3, 0, 1]
    assert prepared.train.lengths[1].tolist() == [1] * 7 and prepared.train.where(0) == f"{train}:2"
    assert prepared.report.lines()[0] == "7 texts read, 7 to train on"
    again = prepare(config(train, valid), tmp_path / "data")
    assert again.labels == prepared.labels and again.fingerprint == prepared.fingerprint


def test_a_label_that_training_lacks(tmp_path: Path) -> None:
    train = table(tmp_path / "train.tsv", ROWS, ("text", "label"))
    said: list[str] = []
    for name in ("valid", "test"):
        other = table(tmp_path / f"{name}.tsv", [*ROWS, ("hm", "poss")], ("text", "label"))
        with pytest.raises(RegardError) as caught:
            prepare(config(train, **{"valid": str(train), name: str(other)}), tmp_path / "data", say=said.append)
        assert str(caught.value) == (
            f"{other}:7: the label 'poss' is none of the 2 of the training data: expected one of neg, pos "
            "— did you mean 'pos'?"
        )
    assert said and not any("subwords" in line for line in said), "found before the subwords are learnt"


def test_one_label_or_very_many_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = table(tmp_path / "a.tsv", [(text, "same") for text, _ in ROWS], ("text", "label"))
    assert fault(path) == (
        "data.train: all 5 examples have the label 'same' (last: a.tsv:6): a classification needs at least two labels"
    )
    monkeypatch.setattr(module, "MOST", 3)
    many = table(tmp_path / "b.tsv", [(text, str(number)) for number, (text, _) in enumerate(ROWS)], ("text", "label"))
    assert fault(many).startswith("b.tsv:5: more than 3 different labels: is it the wrong column?")


def test_labels_are_counted_before_a_part_is_held_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path) -> str:
        chosen = config(path)
        with pytest.raises(RegardError) as caught:
            survey(str(path), chosen.data, columns_of(chosen)).hold_out()
        return str(caught.value).replace(f"{path.parent}/", "")

    advice = "is it the wrong column? name the label's with --label (data.label)"
    same = table(tmp_path / "a.tsv", [(text, "same") for text, _ in ROWS], ("text", "label"))
    assert refused(same) == (
        f"a.tsv: all 5 examples have the label 'same': a classification needs at least two labels; {advice}"
    )
    many = table(tmp_path / "b.tsv", [(text, str(number)) for number, (text, _) in enumerate(ROWS)], ("text", "label"))
    assert refused(many) == f"b.tsv: each of its 5 examples has a label of its own: {advice}"
    monkeypatch.setattr(module, "MOST", 3)
    assert refused(many) == f"b.tsv: 5 different labels in 5 examples: {advice}"


def test_what_is_left_out_and_counted(tmp_path: Path) -> None:
    rows = [*ROWS, ("", "pos"), ("word " * 100, "neg"), ROWS[0]]
    train = table(tmp_path / "train.tsv", rows, ("text", "label"))
    valid = table(tmp_path / "valid.tsv", [("so good", "pos"), (" ", "neg")], ("text", "label"))
    prepared = prepare(config(train, valid), tmp_path / "data")
    assert len(prepared.train) == 6 and len(prepared.valid) == 2, "line N of the validation corpus stays line N"
    assert prepared.report.lines() == [
        "8 texts read, 6 to train on",
        f"1 text without text: left out (first: {train}:7)",
        f"1 text longer than data.max_length: left out (first: {train}:8)",
        f"1 text found in the validation or test data: kept (first: {train}:5 = {valid}:2; data.remove_overlap = true "
        "leaves them out)",
        f"1 text equal to an earlier text: kept (first: {train}:9)",
        f"1 text of valid found in train (first: {train}:5 = {valid}:2)",
    ]
    removed = prepare(config(train, valid, remove_overlap=True), tmp_path / "data")
    assert "so good" not in [removed.train.text(0, index) for index in range(len(removed.train))]
    table(valid, [("", "pos")], ("text", "label"))
    with pytest.raises(RegardError, match=r"data\.valid: none of its 1 examples has text: there is nothing to score"):
        prepare(config(train, valid), tmp_path / "data")


@pytest.mark.parametrize(
    ("names", "task"),
    [
        ("text label", "classification"), ("label text_a", "classification"), ("review stars id", "language_model"),
        ("text", "language_model"), ("source target", ""), ("text translation", ""), ("original translation", ""),
        ("sentence target", "classification"), ("a b", ""), ("sentence1 sentence2", ""),
        ("id label said", "classification"), ("text label label", "classification"),
        ("text text label", "classification"),
    ],
)  # fmt: skip
def test_names_of_columns_suggest_a_task(names: str, task: str, tmp_path: Path) -> None:
    listed = names.split()
    path = table(tmp_path / "a.tsv", [tuple("xyz"[: len(listed)])], tuple(listed))
    assert kind_of(str(path)) == task
    if len(set(listed)) == len(listed):
        assert kind_of(str(lines(tmp_path / "a.jsonl", [dict.fromkeys(listed, "x")]))) == task


def _real(folder: Path, tmp_path: Path) -> Prepared:
    names = {name: str(folder / f"{name}.tsv") for name in ("train", "dev", "test")}
    data = DataConfig(train=(names["train"],), valid=names["dev"], test=names["test"], vocabulary=4000, max_length=512)
    return prepare(Config(task="classification", data=data), tmp_path / "data")


@pytest.mark.slow
def test_real_labelled_texts(corpus: Callable[[str], Path], tmp_path: Path) -> None:
    """Quotation marks stand in 226 texts of the English training part and 55 of the Chinese: all are text."""
    english = _real(corpus("sentiment-en"), tmp_path / "en")
    assert (len(english.train), len(english.valid), english.labels) == (8530, 1066, ("negative", "positive"))
    chinese = _real(corpus("sentiment-zh"), tmp_path / "zh")
    assert chinese.report.examples == 9600 and len(chinese.valid) == 1200 and chinese.labels == ("0", "1")
    assert chinese.report.overlap["test"][0] == 331, "as published, 331 of its test texts stand in its training part"
