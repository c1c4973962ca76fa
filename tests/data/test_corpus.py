"""Reading pairs: formats, compression, odd characters, and one clear line for each fault."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regard.config import DataConfig
from regard.data.corpus import open_lines, read_pairs
from regard.errors import RegardError

DATA = DataConfig(train=("x",), valid="x", source="zh", target="en")


def keys(source: str, target: str) -> DataConfig:
    return DataConfig(train=("x",), valid="x", source="zh", target="en", source_key=source, target_key=target)


def pairs(entry: object, data: DataConfig = DATA) -> list[tuple[str, str, str]]:
    return [tuple(pair) for pair in read_pairs(entry if isinstance(entry, tuple) else str(entry), data)]


def error(entry: object, data: DataConfig = DATA) -> str:
    with pytest.raises(RegardError) as caught:
        pairs(entry, data)
    text = str(caught.value)
    assert "\n" not in text
    return text


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_all_formats_give_the_same_pairs(tmp_path: Path) -> None:
    write(tmp_path / "a.zh", "我\n你 好\n")
    write(tmp_path / "a.en", "I\nHello you")
    write(tmp_path / "b.tsv", "我\tI\n你 好\tHello you\n")
    write(tmp_path / "c.tsv", "id\ten\tzh\n1\tI\t我\n2\tHello you\t你 好\n")
    rows = [{"en": "I", "zh": "我", "index": 0}, {"zh": "你 好", "en": "Hello you", "index": 1}]
    write(tmp_path / "d.jsonl", "\n".join(json.dumps(row) for row in rows))
    write(tmp_path / "e.ndjson", "\ufeff" + "".join(f"{json.dumps(row, ensure_ascii=False)}\r\n" for row in rows))
    expected = [("我", "I"), ("你 好", "Hello you")]
    entries = ["a", f"a.zh,{tmp_path}/a.en", "b.tsv", "c.tsv", "d.jsonl", "e.ndjson"]
    for entry in entries:
        assert [pair[:2] for pair in pairs(tmp_path / entry)] == expected, entry
    assert [pair[2] for pair in pairs(tmp_path / "a")] == [f"{tmp_path}/a.zh:1", f"{tmp_path}/a.zh:2"]
    assert pairs(tmp_path / "c.tsv")[0][2] == f"{tmp_path}/c.tsv:2"


def test_columns_and_keys_by_name_and_number(tmp_path: Path) -> None:
    table = write(tmp_path / "a.tsv", "I\t我\tCC-BY\n")
    assert pairs(table, keys("1", "0"))[0][:2] == ("我", "I")
    assert error(table, keys("source", "target")).endswith(
        "data.source_key = 'source': no column of that name in the first line: ['I', '我', 'CC-BY']"
    )
    assert ":1: data.source_key = 5: there are 3 columns, counted from 0" in error(table, keys("5", "0"))
    lines = write(tmp_path / "a.jsonl", '{"src": "我", "tgt": "I"}\n')
    assert pairs(lines, keys("src", "tgt"))[0][:2] == ("我", "I")
    assert "a.jsonl:1: no key 'zh' among ['src', 'tgt']; name the keys with --source-key" in error(lines)


@pytest.mark.parametrize("ending", [".gz", ".xz", ".zst"])
def test_compressed_files_and_damaged_ones(ending: str, tmp_path: Path) -> None:
    import zstandard

    checked = zstandard.ZstdCompressor(write_checksum=True)
    pack = {".gz": gzip.compress, ".xz": lzma.compress, ".zst": checked.compress}[ending]
    text = "".join(f"line {i * i}\n" for i in range(5000)).encode()
    write(tmp_path / f"a.zh{ending}", pack(text) + pack(b"last\n"))
    write(tmp_path / f"a.en{ending}", pack(text + b"last"))
    read = pairs(tmp_path / "a")
    assert len(read) == 5001 and read[-1][0] == read[-1][1] == "last"
    whole = pack(text)
    for damaged in (whole[:-30], b"nonsense, not compressed", whole[:200] + b"\0" * 20 + whole[220:]):
        path = write(tmp_path / f"b.zh{ending}", damaged)
        with pytest.raises(RegardError, match=rf"b\.zh\{ending}: (damaged|cannot be read)"):
            list(open_lines(path))
    write(tmp_path / f"c.jsonl{ending}", pack(b'{"zh": "a", "en": "b"}\n'))
    assert pairs(tmp_path / f"c.jsonl{ending}")[0][:2] == ("a", "b")


@given(st.lists(st.text(st.characters(exclude_characters="\n", exclude_categories=("Cs",))), min_size=1))
def test_lines_end_at_line_feeds_only(lines: list[str]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a"
        path.write_bytes("".join(f"{line}\n" for line in lines).encode())
        assert [line.decode() for line in open_lines(path)] == [line.removesuffix("\r") for line in lines]


def test_no_last_newline_carriage_returns_and_a_byte_order_mark(tmp_path: Path) -> None:
    odd = "a\u2028b\x85c\x0bd\x0ce\rf\u2029"
    write(tmp_path / "a.zh", f"\ufeff{odd}\r\n\n")
    write(tmp_path / "a.en", "one\r\ntwo")
    assert [pair[:2] for pair in pairs(tmp_path / "a")] == [(odd, "one"), ("", "two")]


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\nb"), encoding="utf-8"))
    assert list(open_lines("-")) == [b"a", b"b"]


def test_the_data_folder_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGARD_DATA", str(tmp_path))
    write(tmp_path / "a.tsv", "我\tI\n")
    assert pairs("$REGARD_DATA/a.tsv")[0][:2] == ("我", "I")


def test_faults_of_files(tmp_path: Path) -> None:
    write(tmp_path / "a.zh", "1\n2\n3\n")
    assert error(tmp_path / "a").startswith(f"{tmp_path}/a.en: no such file (nor .gz, .xz, .bz2, .zst)")
    write(tmp_path / "a.en", "1\n2\n3\n4\n5\n")
    assert error(tmp_path / "a") == (
        f"{tmp_path}/a.zh has 3 lines and {tmp_path}/a.en has 5: line N of one must be the translation of line N of "
        f"the other (first without a partner: {tmp_path}/a.en:4)"
    )
    write(tmp_path / "a.en", "1\n2\n")
    assert f"a.en has 2 lines and {tmp_path}/a.zh has 3" in error(tmp_path / "a")
    write(tmp_path / "a.en", "")
    assert "a.en has 0 lines" in error(tmp_path / "a")
    write(tmp_path / "a.zh", "")
    assert error(tmp_path / "a") == f"{tmp_path}/a: the corpus is empty"
    assert error(tmp_path / "a.zh").startswith(
        f"{tmp_path}/a.zh: one file holds both languages only as .tsv, .csv or .jsonl"
    )
    assert error(f"{tmp_path}/a.zh,{tmp_path}/a.zh").endswith("a.zh: both sides are the same file")
    assert error("a,b,c").endswith('named by data as \'a,b,c\'; two files are a list, ["A", "B"]')
    assert "Parquet is not read yet" in error("a.parquet")
    (tmp_path / "folder.tsv").mkdir()
    assert error(tmp_path / "folder.tsv").endswith("is a folder; expected a text file")
    assert error(tmp_path / "none.tsv") == f"{tmp_path}/none.tsv: no such file"


ODD_NAMES = ("a,b", " a", "a ", "a, b", ",a,", "a.zh,a.en", "[a]", "a=b #1", "我,你", '"a"', "a\\nb")


@pytest.mark.parametrize("name", ODD_NAMES)
def test_commas_and_spaces_belong_to_the_name_of_a_file(name: str, tmp_path: Path) -> None:
    """Names were once divided at commas, and lost the spaces at their ends."""
    write(tmp_path / "a.zh", "wrong\n")
    write(tmp_path / "a.en", "wrong\n")
    write(tmp_path / f"{name}.zh", "我\n")
    write(tmp_path / f"{name}.en", "I\n")
    expected = [("我", "I", f"{tmp_path}/{name}.zh:1")]
    assert pairs(tmp_path / name) == pairs((f"{tmp_path}/{name}.zh", f"{tmp_path}/{name}.en")) == expected
    write(tmp_path / f"{name}.tsv", "我\tI\n")
    assert pairs(tmp_path / f"{name}.tsv")[0][:2] == ("我", "I")
    folder = tmp_path / f"{name}.d"
    folder.mkdir()
    for language in ("zh", "en"):
        write(folder / f" t,.{language} ", "x\n")
    assert len(pairs((f"{folder}/ t,.zh ", f"{folder}/ t,.en "))) == 1


def test_two_names_with_a_comma_between_them_are_read_where_nothing_else_can_be_meant(tmp_path: Path) -> None:
    for name in ("a.zh", "a.en", "x,y.zh", "x,y.en"):
        write(tmp_path / name, f"{name}\n")
    assert pairs(f"{tmp_path}/a.zh, {tmp_path}/a.en")[0][:2] == ("a.zh", "a.en")
    assert pairs(f"{tmp_path}/x,y.zh,{tmp_path}/x,y.en")[0][:2] == ("x,y.zh", "x,y.en")
    missing = f"{tmp_path}/a.zh,{tmp_path}/none.en"
    assert error(missing).endswith(f'named by data as \'{missing}\'; two files are a list, ["A", "B"]')
    both = f"{tmp_path}/a.zh,{tmp_path}/a.en"
    (tmp_path / "a.zh,").joinpath(*tmp_path.parts[1:]).mkdir(parents=True)
    write(Path(f"{both}.zh"), "one\n")
    write(Path(f"{both}.en"), "two\n")
    assert pairs(both)[0][:2] == ("one", "two"), "a file of that name wins"
    write(Path(both), "both\n")
    assert error(both).startswith(f"{both}: one file holds both languages only as .tsv, .csv or .jsonl")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    write(tmp_path / "a.tsv", "a\tb\n").chmod(0)
    assert error(tmp_path / "a.tsv") == f"{tmp_path}/a.tsv: cannot be read: Permission denied"


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (b"good\n\xff\xfebad\n", "a.tsv:2: byte 1 of the line (0xff) is not UTF-8"),
        ("我们\n".encode("gb18030"), "a.tsv:1: byte 1 of the line (0xce)"),
        (b"\xc0\xaf", "byte 1 of the line (0xc0)"),  # an overlong form
        (b"ab\xed\xa0\x80", "byte 3 of the line (0xed)"),  # half a surrogate pair
        ("a\tb\n".encode("utf-16"), "a.tsv: is UTF-16LE text"),
    ],
)
def test_what_is_not_utf8(content: bytes, place: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", content)
    assert place in error(path) or "1 column, expected" in error(path)
    write(tmp_path / "b.zh", content)
    write(tmp_path / "b.en", content)
    assert place.replace("a.tsv", "b.zh") in error(tmp_path / "b")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "a.jsonl:2: not JSON"),
        ("[1]", "a.jsonl:2: expected a JSON object, found list"),
        ('{"zh": "a"}', "a.jsonl:2: no key 'en' among ['zh']"),
        ('{"zh": "a", "en": null}', "a.jsonl:2: 'en' is not a text but NoneType"),
        ('{"zh": ["a"], "en": "b"}', "a.jsonl:2: 'zh' is not a text but list"),
        ('{"zh": "\\ud800", "en": "b"}', "a.jsonl:2: 'zh' holds half a surrogate pair"),
        ('{"zh": "a", "zh": "c", "en": "b"}', "a.jsonl:2: not JSON: the key 'zh' stands twice in an object"),
        ("[" * 100_000, "a.jsonl:2: not JSON"),
        ('{"zh": "a", "en": ' + "9" * 5000 + "}", "a.jsonl:2: not JSON"),
        ('{"zh": NaN, "en": "b"}', "a.jsonl:2: 'zh' is not a text but float"),
    ],
    ids=range(10),
)
def test_faults_of_json_lines(line: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"zh": "a", "en": "b"}\n' + line + "\n")
    assert message in error(path)


def test_reading_is_a_stream(tmp_path: Path) -> None:
    """The first pair comes before the fault in the last line, and before the file has been read."""
    write(tmp_path / "a.tsv", b"a\tb\n" * 1000 + b"\xff\n")
    stream = read_pairs(str(tmp_path / "a.tsv"), DATA)
    assert next(stream).where.endswith("a.tsv:1")
    with pytest.raises(RegardError, match=r"a\.tsv:1001: byte 1"):
        list(stream)
