"""Text files as every verb reads them: by their content; what can't be read is named, and nothing is made of it."""

from __future__ import annotations

import bz2
import gzip
import lzma
from pathlib import Path

import pytest

from .conftest import TINY, Regard, pairs, refused, write_corpus

CHINESE, ENGLISH = "一二三\n四五\n", "one two three\nfour five\n"
SHORT = ("--steps", "1", "--save-every", "1", "--validate-every", "1")


def arguments(verb: str, model: Path, zh: str, en: str) -> tuple[object, ...]:
    return {
        "train": ("train", zh, en, *SHORT, "--source-language", "zh", "--target-language", "en", "-o", "run"),
        "translate": ("translate", model, zh),
        "evaluate": ("evaluate", model, "--source", zh, "--reference", en),
        "score": ("score", model, "--source", zh, "--target", en),
        "shortlist": ("shortlist", model, "lex", "--source", zh, "--target", en),
    }[verb]


VERBS = ("train", "translate", "evaluate", "score", "shortlist")


@pytest.mark.parametrize("verb", VERBS)
def test_utf16_without_a_mark_is_neither_learnt_nor_scored(
    verb: str, model: Path, regard: Regard, tmp_path: Path
) -> None:
    """Such files were once read as letters with NUL between them."""
    for name, text in (("a.zh", CHINESE), ("a.en", ENGLISH)):
        (tmp_path / name).write_bytes((text * 60).encode("utf-16-be"))
    message = refused(regard(*arguments(verb, model, "a.zh", "a.en"), cwd=tmp_path))
    expected = "a.zh: is UTF-16BE text without a byte order mark; convert it with iconv -f UTF-16BE -t UTF-8"
    assert message == expected and not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize("verb", VERBS[1:])
def test_compressed_files_without_the_ending_are_read(verb: str, model: Path, regard: Regard, tmp_path: Path) -> None:
    """Such files were once taken for GB18030."""
    (tmp_path / "plain.zh").write_text(CHINESE * 20, "utf-8")
    (tmp_path / "plain.en").write_text(ENGLISH * 20, "utf-8")
    (tmp_path / "a.zh").write_bytes(gzip.compress((CHINESE * 20).encode()))
    (tmp_path / "a.en").write_bytes(bz2.compress((ENGLISH * 20).encode()))
    packed = regard(*arguments(verb, model, "a.zh", "a.en"), cwd=tmp_path)
    assert packed.returncode == 0, packed.stderr.decode()
    assert packed.stdout == regard(*arguments(verb, model, "plain.zh", "plain.en"), cwd=tmp_path).stdout


def test_validation_data_is_looked_at_too(regard: Regard, tmp_path: Path) -> None:
    write_corpus(tmp_path, "train", pairs(60, seed=5))
    (tmp_path / "valid.zh").write_bytes(CHINESE.encode())
    (tmp_path / "valid.en").write_bytes(b"one\0two\nfour\n")
    (tmp_path / "tiny.toml").write_text(TINY, "utf-8")
    assert refused(regard("train", "tiny.toml", cwd=tmp_path)).startswith("valid.en:1: has a NUL character")
    (tmp_path / "valid.en").write_bytes("Éa va\nélu\n".encode("latin-1"))
    assert refused(regard("train", "tiny.toml", "-o", "other", cwd=tmp_path)).endswith("iconv -f WINDOWS-1252 -t UTF-8")


def test_standard_input_is_read_by_its_content(model: Path, regard: Regard) -> None:
    plain = regard("translate", model, input=CHINESE.encode())
    for pack in (gzip.compress, bz2.compress, lzma.compress):
        assert regard("translate", model, input=pack(CHINESE.encode())).stdout == plain.stdout
    message = refused(regard("translate", model, input=CHINESE.encode("utf-16-le")))
    assert message.startswith("-: is UTF-16LE text without a byte order mark")
    assert "-: is a PDF document" in refused(regard("translate", model, "--replace-invalid", input=b"%PDF-1.7\n\xff\n"))


def test_replace_invalid_still_replaces_whatever_bytes_come(model: Path, regard: Regard) -> None:
    data = b"\xff\xfe\0\0\n" + CHINESE.encode("utf-16-le") + b"\n\x80"
    done = regard("translate", model, "--replace-invalid", input=data)
    assert done.returncode == 0 and done.stdout.count(b"\n") == data.count(b"\n") + 1
