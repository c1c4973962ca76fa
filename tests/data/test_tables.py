"""Tables of pairs: no line of names is learnt from, no half of a sentence, no number, no quotation mark of CSV."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regard.config import DataConfig, read_config
from regard.data.corpus import languages_in, read_pairs, remarks
from regard.data.headers import meaning
from regard.errors import RegardError

PAIRS = [
    ("你给汤姆多少钱？", "How much are you paying Tom?"),
    ("“你想再来点咖啡吗？”“不，谢谢。”", '"Will you have some more coffee?" "No, thanks."'),
    ("我無法入睡。", "I couldn't fall asleep."),
    ('"', 'He said "no".'),
]


def config(**changes: str) -> DataConfig:
    return DataConfig(**{"train": ("x",), "valid": "x", "source": "zh", "target": "en", **changes})


def read(path: Path, **changes: str) -> list[tuple[str, str]]:
    return [(pair.source, pair.target) for pair in read_pairs(str(path), config(**changes))]


def fault(path: Path, **changes: str) -> str:
    with pytest.raises(RegardError) as caught:
        read(path, **changes)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"{path}:")


def written(path: Path, rows: list[tuple[str, ...]], *first: tuple[str, ...]) -> Path:
    path.write_text("".join("\t".join(row) + "\n" for row in (*first, *rows)), "utf-8")
    return path


@pytest.mark.parametrize(
    "header",
    [
        "source target", "src tgt", "zh en", "ZH EN", "zh-CN en-US", "zh_Hans en", "cmn eng", "Chinese English",
        "中文 English", "中文 英文", "漢語 英語", "原文 译文", "source_text target_text", "text translation",
        "Chinese_sentence English_sentence", "sentence1 sentence2", "original translation", "zh.text en.text",
    ],
)  # fmt: skip
def test_a_line_of_names_is_no_pair_and_is_said(header: str, tmp_path: Path) -> None:
    """Such a line was once learnt as the first pair."""
    first, second = header.split()
    path = written(tmp_path / "a.tsv", PAIRS, (first, second))
    assert read(path) == PAIRS
    said = f"{path}: the first line names the columns: source is '{first}', target is '{second}'"
    assert remarks(str(path), config()) == [said]


def test_names_in_quotes_above_texts_without(tmp_path: Path) -> None:
    assert read(written(tmp_path / "a.tsv", PAIRS, ('"zh"', '"en"'))) == PAIRS


@pytest.mark.parametrize("header", ["target source", "en zh", "English Chinese", "译文 原文", "translation text"])
def test_a_line_of_names_says_which_side_is_which(header: str, tmp_path: Path) -> None:
    path = written(tmp_path / "a.tsv", [(target, source) for source, target in PAIRS], tuple(header.split()))
    assert read(path) == PAIRS


@pytest.mark.parametrize(
    ("source", "target", "row"),
    [
        ("zh", "en", ("中文", "Chinese")), ("zh", "en", ("英文", "English")), ("zh", "en", ("来源", "source")),
        ("zh", "en", ("源", "source")), ("zh", "en", ("翻译", "translation")), ("zh", "en", ("文本", "text")),
        ("zh", "en", ("编号", "No.")), ("zh", "en", ("法语", "French")), ("en", "de", ("it", "es")),
        ("en", "de", ("no", "nein")), ("zh", "en", ("1", "2")), ("zh", "en", ("", "")), ("en", "zh", ("Hi", "嗨")),
        ("zh", "en", ("你好", "English")), ("zh", "en", ("zh", "你好")),
    ],
)  # fmt: skip
def test_the_first_pair_of_a_dictionary_is_no_line_of_names(
    source: str, target: str, row: tuple[str, str], tmp_path: Path
) -> None:
    path = written(tmp_path / "a.tsv", PAIRS, row)
    assert read(path, source=source, target=target) == [row, *PAIRS]
    assert remarks(str(path), config(source=source, target=target)) == []


@pytest.mark.parametrize("header", ["de en", "source label", "id text", "French German"])
def test_names_of_other_columns_are_a_question(header: str, tmp_path: Path) -> None:
    path = written(tmp_path / "a.tsv", PAIRS, tuple(header.split()))
    if header in ("de en", "source label", "id text"):
        assert fault(path).startswith("1: which of these columns are zh and en? 0 '")


def test_more_than_two_columns_need_names(tmp_path: Path) -> None:
    """id, zh, id, en taught a model to translate numbers into Chinese."""
    rows = [(str(number), one, str(number), other) for number, (one, other) in enumerate(PAIRS)]
    path = written(tmp_path / "a.tsv", rows)
    assert fault(path).startswith("1: which of these columns are zh and en? 0 '0', 1 '你给汤姆多少钱？', 2 '0', 3 'How")
    assert fault(path).endswith(
        "say it by name or number, with --source-key and --target-key (data.source_key, data.target_key)"
    )
    assert read(path, source_key="1", target_key="3") == PAIRS
    assert "which of these" in fault(path, source_key="1")
    named = written(tmp_path / "b.tsv", rows, ("id", "zh", "id", "en"))
    assert read(named) == PAIRS == read(named, source_key="1", target_key="3") == read(named, source_key="zh")
    assert read(named, source_key="en", target_key="zh") == [(other, one) for one, other in PAIRS]
    twice = "1: data.source_key = 'id': 2 columns of that name in the first line"
    assert fault(named, source_key="id").startswith(twice)
    assert fault(named, source_key="9").startswith("1: data.source_key = 9: there are 4 columns, counted from 0")
    assert fault(named, source_key="3").startswith("1: which of these")
    doubled = written(tmp_path / "c.tsv", [(*row, "x") for row in PAIRS], ("zh", "en", "en"))
    assert fault(doubled).startswith("1: which of these columns are zh and en?")
    assert read(doubled, target_key="1") == PAIRS


def test_a_column_may_be_given_as_a_number() -> None:
    given = read_config(
        None,
        ["data.source_key=1", "data.target_key=3"],
        data={"train": "a", "valid": "b", "source": "zh", "target": "en"},
    )
    assert (given.data.source_key, given.data.target_key) == ("1", "3")


def test_a_row_with_another_number_of_columns_is_a_fault(tmp_path: Path) -> None:
    """A tab within a sentence paired its halves."""
    path = written(tmp_path / "a.tsv", [*PAIRS, ("我無", "法入睡。", "I couldn't fall asleep.")])
    expected = (
        "5: 3 columns, and the first line has 2: every line needs as many; is there a tab or comma within a sentence?"
    )
    assert fault(path) == expected
    assert "5: 1 column, and the first line has 2" in fault(written(tmp_path / "b.tsv", [*PAIRS, ("我無法入睡。",)]))
    assert "1: 1 column, expected one of zh and one of en beside it" in fault(written(tmp_path / "c.tsv", [("我",)]))
    path.write_text("我\tI\n\n你\tyou\n\n", "utf-8")
    assert read(path) == [("我", "I"), ("你", "you")], "blank lines are none"
    path.write_text("zh\ten\n", "utf-8")
    with pytest.raises(RegardError, match="the corpus is empty"):
        read(path)


def quoted(rows: list[tuple[str, ...]], path: Path, **options: object) -> Path:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n", **options).writerows(rows)  # type: ignore[arg-type]
    path.write_text(text.getvalue(), "utf-8")
    return path


@pytest.mark.parametrize("header", [[], [("zh", "en")]])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
@pytest.mark.parametrize(("ending", "delimiter"), [("csv", ","), ("csv", ";"), ("csv", "\t"), ("tsv", "\t")])
def test_quotes_of_csv_are_not_learnt(
    ending: str, delimiter: str, quoting: int, header: list[tuple[str, str]], tmp_path: Path
) -> None:
    """Cells kept their quotation marks, and those inside stood double."""
    path = quoted([*header, *PAIRS], tmp_path / f"a.{ending}", delimiter=delimiter, quoting=quoting)
    assert read(path) == PAIRS
    numbers = [(str(number), *pair) for number, pair in enumerate(PAIRS)]
    assert read(quoted(numbers, path, delimiter=delimiter, quoting=quoting), source_key="1", target_key="2") == PAIRS


def test_the_line_in_which_excel_names_the_delimiter_is_no_row(tmp_path: Path) -> None:
    path = quoted([("zh", "en"), *PAIRS], tmp_path / "a.csv", delimiter=";")
    path.write_text("\ufeffsep=;\n" + path.read_text("utf-8"), "utf-8")
    assert read(path) == PAIRS


def test_a_cell_of_csv_may_hold_lines_and_the_next_row_keeps_its_number(tmp_path: Path) -> None:
    path = quoted([("zh", "en"), ("一\n二", "one,\ntwo"), ("三", "three"), ("四", "four", "4")], tmp_path / "a.csv")
    assert fault(path).startswith("6: 3 columns, and the first line has 2")
    path = quoted([("zh", "en"), ("一\n二", "one,\ntwo"), ("三", "three")], path)
    assert [pair.where for pair in read_pairs(str(path), config())] == [f"{path}:2", f"{path}:5"]
    assert read(path)[0] == ("一\n二", "one,\ntwo")


@pytest.mark.parametrize(
    "row",
    [
        ('"你好', "hello"), ("你好", '"hello'), ('"你好', 'hello"'), ('"', '"'), ("你好", '"Yes," he said.'),
        ("你好", '"Hi" "you"'), ("“你好", '"'), ('你"好', 'a "word"'),
    ],
)  # fmt: skip
def test_a_lone_quotation_mark_swallows_no_line(row: tuple[str, str], tmp_path: Path) -> None:
    """In a .tsv such a mark is text, and then so are all others in the file."""
    rows = [PAIRS[0], row, ("说", '"I love you."'), PAIRS[2], ("一", '"one"')]
    path = written(tmp_path / "a.tsv", rows)
    assert read(path) == rows
    assert read(written(path, rows, ("zh", "en"))) == rows


def test_a_lone_quotation_mark_in_a_csv_is_a_fault(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('zh,en\n一,one\n二,"two\n三,three\n', "utf-8")
    assert fault(path).startswith("3: not CSV: unexpected end of data; a text with a quotation mark in it stands in")
    path.write_text('zh,en\n一,one\n二,"two" three\n', "utf-8")
    assert fault(path).startswith("3: not CSV: ',' expected after '\"'")


cells = st.text(st.characters(exclude_characters="\0\n\r", exclude_categories=("Cs",)), min_size=1, max_size=8)


@given(st.lists(st.tuples(cells, cells), min_size=2, max_size=6), st.sampled_from([",", ";", "\t"]))
def test_csv_gives_back_what_csv_wrote(rows: list[tuple[str, str]], delimiter: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.csv"
        expected = [("zh", "en"), *rows]
        assert read(quoted(expected, path, delimiter=delimiter)) == rows


def test_translations_within_objects_are_read(tmp_path: Path) -> None:
    """As Hugging Face's data sets have them."""
    path = tmp_path / "a.jsonl"
    items = [{"id": number, "translation": {"zh": one, "en": other}} for number, (one, other) in enumerate(PAIRS)]
    path.write_text("".join(json.dumps(item) + "\n" for item in items), "utf-8")
    assert read(path) == PAIRS == read(path, source_key="translation.zh", target_key="translation.en")
    assert fault(path, source_key="translation.de").startswith(
        "1: no key 'translation.de' among ['id', 'translation', 'translation.en', 'translation.zh']"
    )
    path.write_text('{"a.b": "我", "c": {"d": {"e": "I"}}}\n', "utf-8")
    assert read(path, source_key="a.b", target_key="c.d.e") == [("我", "I")]
    assert fault(path, source_key="a.b", target_key="c.d") == "1: 'c.d' is not a text but dict"


def test_the_languages_that_a_file_names(tmp_path: Path) -> None:
    table, lines = tmp_path / "a.tsv", tmp_path / "a.jsonl"
    for header, expected in (("id\tzh-CN\tEnglish", ("zh", "en")), ("en\tde", ("en", "de")), ("a\tb", ("", ""))):
        table.write_text(f"{header}\n", "utf-8")
        assert languages_in(str(table)) == expected
    for item, expected in (
        ({"translation": {"en": "a", "zh": "b"}}, ("en", "zh")),
        ({"nr": 1, "zh": "a", "en": "b"}, ("zh", "en")),
        ({"src": "a", "tgt": "b"}, ("", "")),
    ):
        lines.write_text(json.dumps(item) + "\n", "utf-8")
        assert languages_in(str(lines)) == expected


def test_names_that_translate_each_other_mean_the_same() -> None:
    for one, other in (("中文", "Chinese"), ("源", "source"), ("译文", "translation"), ("句子", "sentence")):
        assert meaning(one, ("zh", "en")) == meaning(other, ("zh", "en")) != ""
    assert meaning("How are you?", ("zh", "en")) == meaning("", ("zh", "en")) == ""
