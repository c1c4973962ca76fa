"""Files are recognised by their bytes, whatever their names: compressed, another encoding, no text; nothing is lost."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from regard.config import DataConfig
from regard.data.corpus import read_pairs
from regard.data.reading import LONGEST, open_lines, read_lines
from regard.errors import RegardError

DATA = DataConfig(train=("x",), valid="x", source="zh", target="en")
CHINESE = "你给汤姆多少钱？\n這魚吃著像三文魚。\n他打网球打得很好。\n我无法入睡。\n一\n"
ENGLISH = "How much are you paying Tom?\nThe fish tasted like salmon.\nHe plays tennis very well.\nI can't.\nOne\n"
PACK: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "xz": lzma.compress,
    "bzip2": bz2.compress,
    "zstd": zstandard.ZstdCompressor(write_checksum=True).compress,
}


def fault(path: Path) -> str:
    with pytest.raises(RegardError) as caught:
        list(read_lines(path))
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(str(path))


def texts(path: Path) -> str:
    return "".join(f"{text}\n" for text, _ in read_lines(path))


@pytest.mark.parametrize("ending", ["", ".gz", ".xz", ".bz2", ".zst"])
@pytest.mark.parametrize("kind", PACK)
def test_a_compressed_file_is_read_whatever_its_ending(kind: str, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.zh{ending}"
    path.write_bytes(PACK[kind](CHINESE.encode()) + PACK[kind](b"last\n"))
    assert texts(path) == CHINESE + "last\n"
    (tmp_path / f"a.en{ending}").write_bytes(PACK[kind](ENGLISH.encode() + b"last"))
    assert len(list(read_pairs(str(tmp_path / "a"), DATA))) == 6


@pytest.mark.parametrize("kind", PACK)
def test_no_end_of_a_compressed_file_is_lost(kind: str, tmp_path: Path) -> None:
    """The standard library passes over whatever stands behind the first stream of xz or bzip2 and is none."""
    path = tmp_path / "a"
    whole = PACK[kind](b"one\n") + PACK[kind](ENGLISH.encode() * 50)
    first = len(PACK[kind](b"one\n"))
    damaged = [whole[: first + 3], whole[:-5], whole + b"rubbish", whole[:first] + b"\xaa" + whole[first + 1 :]]
    for data in damaged:
        path.write_bytes(data)
        assert fault(path).startswith(": damaged or cut off compressed file (")
    path.write_bytes(whole)
    assert texts(path).count("\n") == 251


def test_padding_and_frames_to_pass_over(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for pack in (gzip.compress, lzma.compress):
        path.write_bytes(pack(b"one\n") + b"\0" * 2000 + pack(b"two\n") + b"\0" * 512)
        assert texts(path) == "one\ntwo\n"
    path.write_bytes(b"\x50\x2a\x4d\x18\x04\0\0\0abcd" + PACK["zstd"](b"one\n"))
    assert texts(path) == "one\n"
    for pack in PACK.values():
        path.write_bytes(pack(b""))
        assert texts(path) == ""


@pytest.mark.parametrize("content", [b"one\n", b"", b"\x1e\x8b\x08 a damaged beginning"])
def test_an_ending_that_lies_is_said(content: bytes, tmp_path: Path) -> None:
    for ending in (".gz", ".xz", ".bz2", ".zst"):
        path = tmp_path / f"a{ending}"
        path.write_bytes(content)
        assert fault(path).startswith(": damaged, or not a compressed file: its name says so and its content does not")


def test_a_decompression_bomb_takes_no_memory_before_its_first_line(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for pack in PACK.values():
        path.write_bytes(pack(b"one\n" + b" " * (LONGEST + 1)))
        lines = read_lines(path)
        assert next(lines)[0] == "one"
        with pytest.raises(RegardError, match="a:2: a line of more than 16 MiB; expected a sentence a line"):
            next(lines)


def test_a_file_without_line_ends_does_not_fill_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"one\n" + b"x" * (LONGEST - 1) + b"\n" + b"y" * LONGEST + b"z")
    lines = open_lines(path)
    assert next(lines) == b"one" and len(next(lines)) == LONGEST - 1
    with pytest.raises(RegardError, match="a:3: a line of more than 16 MiB"):
        next(lines)


@pytest.mark.parametrize("text", [CHINESE, ENGLISH, "一二三\n" * 9, "Ça va ? Où est-il ?\n", "Привет, как дела?\nДа\n"])
@pytest.mark.parametrize("encoding", ["UTF-16LE", "UTF-16BE", "UTF-32LE", "UTF-32BE"])
def test_wide_text_is_named_with_its_encoding(text: str, encoding: str, tmp_path: Path) -> None:
    """Such text was once learnt as letters with NUL between them, or taken for GB18030."""
    path = tmp_path / "a.txt"
    advice = f"convert it with iconv -f {encoding} -t UTF-8"
    path.write_bytes(text.encode(encoding))
    assert fault(path) == f": is {encoding} text without a byte order mark; {advice}"
    path.write_bytes(("\ufeff" + text).encode(encoding))
    assert fault(path) == f": is {encoding} text; {advice}"
    path.write_bytes(gzip.compress(text.encode(encoding) * 3000))
    assert fault(path) == f": is {encoding} text without a byte order mark; {advice}"


def test_a_nul_is_never_learnt_from(tmp_path: Path) -> None:
    def refused(entry: Path) -> str:
        with pytest.raises(RegardError) as caught:
            list(read_pairs(str(entry), DATA))
        return str(caught.value)

    (tmp_path / "a.zh").write_bytes(b"one\n" * 30)
    (tmp_path / "a.en").write_bytes(b"one\n" * 29 + b"o\0ne\n")
    assert refused(tmp_path / "a").startswith(f"{tmp_path}/a.en:30: has a NUL character")
    (tmp_path / "b.tsv").write_bytes(b"one\tone\n" * 30 + b"\0\tone\n")
    assert refused(tmp_path / "b.tsv").startswith(f"{tmp_path}/b.tsv:31: has a NUL")
    (tmp_path / "c.jsonl").write_bytes(b'{"zh": "one", "en": "tw\\u0000o"}\n')
    assert refused(tmp_path / "c.jsonl").startswith(f"{tmp_path}/c.jsonl:1: has a NUL")


@pytest.mark.parametrize(
    ("text", "encoding", "advised"),
    [
        (CHINESE, "gb18030", "iconv -f GB18030"),
        ("這魚吃著像三文魚。\n我們不知道他們在哪裡。\n", "big5", "iconv -f BIG5"),
        ("Où est la café ?\nIl a été élu.\n", "latin-1", "iconv -f WINDOWS-1252"),
        ("他", "gb18030", "iconv -f GB18030"),
    ],
)
def test_the_advice_suits_the_encoding(text: str, encoding: str, advised: str, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode(encoding))
    message = fault(path)
    assert message.startswith(":1: byte ") and message.endswith(f"{advised} -t UTF-8")


def test_a_damaged_character_is_no_other_encoding(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes((CHINESE * 2).encode() + "我们不知道".encode()[:-1] + b"\n")
    assert "is not UTF-8; the rest of it is: correct the line" in fault(path)


def _zipped(name: str) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("[Content_Types].xml", "<Types/>" * 20)
        archive.writestr(name, ENGLISH)
    return data.getvalue()


def _tarred() -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        item = tarfile.TarInfo("a.zh")
        item.size = len(ENGLISH)
        archive.addfile(item, io.BytesIO(ENGLISH.encode()))
    return data.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (_zipped("a.zh"), "is a ZIP archive, not text: unpack it with unzip"),
        (_zipped("word/document.xml"), "is a Word document (.docx)"),
        (_zipped("xl/workbook.xml"), "is an Excel workbook (.xlsx), not text: save it as CSV"),
        (_tarred(), "is a tar archive, not text: unpack it with tar -xf"),
        (gzip.compress(_tarred()), "is a tar archive"),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "is a PDF document"),
        (b"{\\rtf1\\ansi hello}\n", "is a document in Rich Text Format"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 500, "is an old Office document"),
        (b"7z\xbc\xaf\x27\x1c\0\x04", "is a 7z archive"),
        (b"SQLite format 3\0" + b"\x10\0\1\1", "is an SQLite database"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "is a picture"),
        (b"PAR1\x15\x04\x15", "is a Parquet file"),
        (
            b"\x7fELF\2\1\1\0\0\0\0\0\0\0\0\0\3\0>\0\1\0\xff\0",
            "is not text: it has NUL bytes, and begins with 7f 45 4c",
        ),
        (gzip.compress(gzip.compress(b"one\n")), "is compressed twice"),
    ],
    ids=range(14),
)
def test_what_is_no_text_is_named(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "a file.zh"
    path.write_bytes(content)
    message = fault(path)
    assert message.startswith(f": {said}") and "GB18030" not in message
    if "unpack it with" in message:
        assert f"'{path}'" in message, "the command can be pasted"


def test_text_that_resembles_something_is_text(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for content in (
        "PAR1 is a name\n",
        "BZh9 is none\n",
        "GIF89a\n",
        "Rar!\n",
        "LZIP\n",
        "PK\n",
        "(ÿ\n",
        "\0",
        "a\0\n",
    ):
        path.write_bytes(content.encode())
        assert texts(path) == content.removesuffix("\n") + "\n"


def test_a_line_of_a_pipe_is_read_before_the_next_is_written(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    may_go_on = threading.Event()

    def write() -> None:
        with path.open("wb", buffering=0) as pipe:
            pipe.write(b"one\n")
            assert may_go_on.wait(10)
            pipe.write(b"two")

    writer = threading.Thread(target=write)
    writer.start()
    lines = open_lines(path)
    assert next(lines) == b"one"
    may_go_on.set()
    assert list(lines) == [b"two"]
    writer.join()
