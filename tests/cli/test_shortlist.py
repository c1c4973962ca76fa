"""``regard shortlist``, and what uses its file, as processes."""

from __future__ import annotations

import json
from pathlib import Path

from .conftest import Regard, refused


def test_learn_translate_and_evaluate(workshop: Path, model: Path, regard: Regard, tmp_path: Path) -> None:
    corpus = ("--source", workshop / "train.zh", "--target", workshop / "train.en")
    made = regard("shortlist", model, tmp_path / "list", *corpus, "--likely", 3, "--common", 5, "--json")
    assert made.returncode == 0, made.stderr
    described = json.loads(made.stdout)
    assert described["share"] > 0.9 and described["length"] < 40
    lines = (workshop / "valid.zh").read_bytes()
    plain, short = (regard("translate", model, *more, input=lines) for more in ((), ("--shortlist", tmp_path / "list")))
    same = sum(a == b for a, b in zip(plain.stdout.split(b"\n"), short.stdout.split(b"\n"), strict=True))
    assert short.returncode == 0 and same > 0.9 * len(lines.split(b"\n"))  # words map one to one
    test = ("--source", workshop / "valid.zh", "--reference", workshop / "valid.en", "--shortlist", tmp_path / "list")
    assert b"shortlist" in regard("evaluate", model, *test).stdout


def test_errors(workshop: Path, model: Path, regard: Regard, tmp_path: Path) -> None:
    one, other = workshop / "train.zh", workshop / "train.en"
    (tmp_path / "one").write_text("一\n", "utf-8")
    (tmp_path / "text").write_text("no tensors", "utf-8")
    regard("shortlist", model, tmp_path / "list", "--source", one, "--target", other)

    def message(*arguments: object) -> str:
        return refused(regard(*arguments, input="一\n".encode()))

    few = message("shortlist", model, tmp_path / "out", "--source", tmp_path / "one", "--target", tmp_path / "one")
    assert "nothing to learn from" in few
    assert "line N of one" in message(
        "shortlist", model, tmp_path / "out", "--source", tmp_path / "one", "--target", other
    )
    assert "another vocabulary" in message("translate", "zh-en", "--shortlist", tmp_path / "list")
    assert "damaged, not a safetensors file" in message("translate", model, "--shortlist", tmp_path / "text")
    assert "not a shortlist" in message("translate", model, "--shortlist", model / "model.safetensors")
    assert "no-such-list" in message("translate", model, "--shortlist", tmp_path / "no-such-list")
    assert "own engine" in message("translate", model, "--shortlist", tmp_path / "list", "--backend", "ctranslate2")
