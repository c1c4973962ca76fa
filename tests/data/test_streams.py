"""Texts as one stream of ids: nothing is lost at line ends, and every token knows its line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from by_task import prepare
from regard.config import Config, DataConfig
from regard.data import reading
from regard.data.last_tenth import survey_text
from regard.data.prepare import Prepared
from regard.data.reading import read_pieces
from regard.data.streams import Piece, grouped
from regard.errors import RegardError
from regard.text.normalize import normalizer

PLAY = "First Citizen:\nBefore we proceed  any further, hear me speak.\n\nAll:\nSpeak, speak.\n"


def config(train: Any, valid: Any = "", **data: Any) -> Config:
    entries = train if isinstance(train, tuple) else (train,)
    values = {"train": tuple(map(str, entries)), "valid": str(valid or entries[0]), "vocabulary": 330, **data}
    return Config(task="language_model", data=DataConfig(**values))


def text_of(prepared: Prepared) -> str:
    return prepared.tokenizer.decode(prepared.train.stream.tolist())


def written(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize("tokenizer", ["bpe", "unigram", "characters"])
@given(text=st.text(st.sampled_from("ab ▁你好\n\r\t\u0301é.\u2028"), min_size=1).filter(str.strip))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_text_comes_back_exactly(text: str, tokenizer: str, tmp_path: Path) -> None:
    path = written(tmp_path / "a.txt", text)
    prepared = prepare(config(path, tokenizer=tokenizer, character_coverage=1.0), tmp_path / "data")
    assert text_of(prepared) == normalizer(["nfc"])(text)


def test_a_file_is_one_document_and_its_lines_are_content(tmp_path: Path) -> None:
    path = written(tmp_path / "a.txt", PLAY)
    prepared = prepare(config(path), tmp_path / "data")
    train, tokenizer = prepared.train, prepared.tokenizer
    assert text_of(prepared) == PLAY and train.after == ()
    assert train.stream.tolist() == tokenizer.encode(PLAY), "the same ids as of the whole text"
    assert isinstance(train.stream, np.memmap)
    assert prepared.report.lines() == ["1 document read, 1 to train on"]
    begun = 0
    for number, line in enumerate(PLAY.splitlines(keepends=True), 1):
        ids = tokenizer.encode_batch([line], continued=number > 1)[0]
        assert train.where_in_stream(begun) == train.where_in_stream(begun + len(ids) - 1) == f"{path}:{number}"
        begun += len(ids)
    assert begun == len(train.stream)
    with pytest.raises(IndexError):
        train.where_in_stream(begun)


def test_between_documents_stands_the_end_mark(tmp_path: Path) -> None:
    items = [{"text": "one\ntwo"}, {"text": "  "}, {"text": "three"}]
    rows = tmp_path / "a.jsonl"
    rows.write_text("".join(json.dumps(item) + "\n" for item in items), "utf-8")
    prepared = prepare(config(rows), tmp_path / "data")
    assert "".join(prepared.tokenizer.tokens(prepared.train.stream)) == "▁one\ntwo</s>▁three</s>"
    assert prepared.train.after == (3,) and prepared.train.stream[-1] == 3
    assert prepared.train.where_in_stream(len(prepared.train.stream) - 1) == f"{rows}:3"
    assert prepared.report.lines() == [
        "3 documents read, 2 to train on",
        f"1 document without text: left out (first: {rows}:2)",
    ]
    other = prepare(config(rows), tmp_path / "other", after=(2, 3))
    assert other.train.stream[-2:].tolist() == [2, 3] and other.fingerprint != prepared.fingerprint
    texts = tuple(written(tmp_path / f"{name}.txt", f"{name}\n") for name in ("one", "two"))
    both = prepare(config(texts), tmp_path / "both")
    assert (both.train.stream == 3).sum() == 2, "two files are two documents"
    assert both.valid.after == ()


@pytest.mark.parametrize("header", ["text", "poem", ""])
def test_rows_of_tables_are_documents(header: str, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text((f"{header},id\n" if header else "") + '"one\ntwo",1\nthree,2\n', "utf-8")
    prepared = prepare(config(path, **({} if header else {"text": "0"})), tmp_path / "data")
    assert [prepared.train.text(0, index) for index in range(len(prepared.train))] == ["one\ntwo", "three"]


def test_lines_longer_than_a_piece_are_cut_before_a_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "PART", 16)
    text = "\ufeffsome words that go on and on\nnext\n" + "字" * 20 + "\n wörd" * 9
    path = written(tmp_path / "a.txt", text)
    pieces = list(read_pieces(path))
    assert "".join(piece for piece, _ in pieces) == text[1:]
    assert len(pieces) > 12 and [piece for piece, line in pieces if line == 1][1].startswith(" ")
    prepared = prepare(config(path), tmp_path / "data")
    assert prepared.train.stream.tolist() == prepared.tokenizer.encode(text[1:])
    monkeypatch.setattr(reading, "LONGEST", 40)
    with pytest.raises(RegardError, match=r"a\.txt:3: more than 0 MiB without a space or a line break"):
        list(read_pieces(path))


def test_a_plain_text_has_no_columns(tmp_path: Path) -> None:
    path = written(tmp_path / "a.txt", PLAY)
    with pytest.raises(RegardError, match=r"a\.txt: a plain text has no columns: leave out --text x"):
        prepare(config(path, text="x"), tmp_path / "data")
    rows = written(tmp_path / "b.jsonl", json.dumps({"x": "one"}) + "\n")
    prepare(config((path, rows), text="x"), tmp_path / "data")  # the key is that of the other file


def test_a_text_of_one_long_line_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "PART", 16)
    monkeypatch.setattr(reading, "LONGEST", 40)
    text = "one line of words " * 20
    path = written(tmp_path / "a.txt", text)
    assert text_of(prepare(config(path), tmp_path / "data")) == text


def test_pieces_are_joined_for_tokens_that_cross_line_ends() -> None:
    def piece(text: str, line: int) -> Piece:
        return Piece(text, line, line == 1, line == 6)

    lines = [piece(text, line) for line, text in enumerate(["one\n", "two\n", "\n", " x\n", "three\n", "four"], 1)]
    found = list(grouped(lines, 7))
    assert found == [Piece("one\ntwo\n\n x\n", 1, True, False), Piece("three\nfour", 5, False, True)]
    rows = [Piece("a", 1, True, True), Piece("b", 2, True, True)]
    assert list(grouped(rows, 100)) == rows, "documents stay apart"


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", b"", "a.txt: the corpus is empty"),
        ("a.txt", b" \n\n", "has no text"),
        ("a.txt", b"one\ntwo\xff\n", "a.txt:2: byte 4 of the line (0xff) is not UTF-8"),
        ("a.txt", b"one\ntw\0o\n", "a.txt:2: has a NUL character"),
        ("a.png", b"\x89PNG....", "a.png: is a picture, not text"),
        ("a.parquet", b"PAR1\0", "a.parquet: Parquet is not read yet"),
        ("a.jsonl", b'{"a": "x", "b": "y"}\n', "a.jsonl:1: which of these keys is the text? 'a', 'b'; say it by name,"),
        (
            "a.tsv",
            b"a\tb\n",
            "a.tsv:1: which of these columns is the text? 0 'a', 1 'b'; say it by name or number, with",
        ),
        ("a.csv", b"text,id\none,1\ntwo\n", "a.csv:3: 1 column, and the first line has 2"),
    ],
)
def test_faults_name_their_place(name: str, content: bytes, expected: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RegardError) as caught:
        prepare(config(tmp_path / name), tmp_path / "data")
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_the_last_tenth_is_held_out_at_a_line_end(tmp_path: Path) -> None:
    text = "".join(f"line {number} says this and that\n" for number in range(100))
    split = survey_text(str(written(tmp_path / "a.txt", text))).hold_out()
    split.write(tmp_path / "corpus")
    train, valid = (Path(name).read_text("utf-8") for name in split.places(tmp_path / "corpus"))
    assert train + valid == text and train.endswith("\n") and abs(len(train) - 0.9 * len(text)) < 30
    assert split.described() == f"{len(train):,} characters to train on, the last {len(valid):,} held out"
    assert split.files == [str(tmp_path / "a.txt")]


def test_a_part_of_one_character_cannot_be_held_out(tmp_path: Path) -> None:
    for text in ("ab", "abcdefghij"):
        with pytest.raises(RegardError, match=rf"a\.txt: {len(text)} characters: too few to train on"):
            survey_text(str(written(tmp_path / "a.txt", text))).hold_out()


def test_a_text_without_line_ends_is_cut_all_the_same(tmp_path: Path) -> None:
    split = survey_text(str(written(tmp_path / "a.txt", "字" * 100))).hold_out()
    split.write(tmp_path / "corpus")
    assert split.train == 90 and (tmp_path / "corpus" / "valid.txt").read_text("utf-8") == "字" * 10
    for text in ("a", "word\n" + " " * 50):
        with pytest.raises(RegardError, match="name a validation text with --valid"):
            survey_text(str(written(tmp_path / "b.txt", text))).hold_out()
    with pytest.raises(RegardError, match="has no text to train on"):
        survey_text(str(written(tmp_path / "b.txt", " \n")))


def test_shakespeare_in_characters(corpus: Callable[[str], Path], tmp_path: Path) -> None:
    """nanoGPT's split and its 65 characters, in a vocabulary with the bytes and special tokens."""
    path = corpus("tinyshakespeare") / "input.txt"
    split = survey_text(str(path)).hold_out()
    assert split.characters == 1_115_394 and abs(split.train - 1_003_854) < 40
    prepared = prepare(config(path, tokenizer="characters", vocabulary=400), tmp_path / "data")
    assert prepared.tokenizer.size == 4 + 256 + 65
    assert len(prepared.train.stream) == 1_115_394 and text_of(prepared) == path.read_text("utf-8")
