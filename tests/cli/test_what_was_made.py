"""``regard train`` says what it made and what it can't use: subwords, parameters, pairs without text."""

from __future__ import annotations

import json
import re
from pathlib import Path

from .conftest import Regard, pairs, refused, write_corpus

SMALL = ("--steps", "2", "--validate-every", "2", "--save-every", "2", "--set", "model.width=16", "--threads", "1")
SMALL += ("--set", "model.heads=2", "--set", "model.feedforward=16", "--batch-tokens", "512", "-o", "run")


def test_the_subwords_that_were_made_are_said_and_counted(regard: Regard, tmp_path: Path) -> None:
    """60,000 were announced, with the parameters of as many, and some hundreds made."""
    write_corpus(tmp_path, "train", pairs(120, seed=8))
    write_corpus(tmp_path, "valid", [*pairs(9, seed=9), ("", "one")])
    done = regard("train", "train.zh", "train.en", "--valid", "valid", "--vocabulary", "60000", *SMALL, cwd=tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    said = done.stderr.decode()
    found = re.search(
        r"([\d,]+) subwords \(data\.vocabulary = 60,000: the text gives no more\), ([\d,]+) parameters", said
    )
    assert found, said
    report = json.loads(regard("params", "run", "--json", cwd=tmp_path).stdout)
    tokenizer = json.loads((tmp_path / "run" / "tokenizer.json").read_text("utf-8"))
    assert int(found[1].replace(",", "")) == len(tokenizer["model"]["vocab"]) < 1000
    assert int(found[2].replace(",", "")) == report["parameters"]
    assert f"with {found[2]} parameters" in (card := (tmp_path / "run" / "README.md").read_text("utf-8"))
    assert f"{found[1]} bpe subwords" in card and "(9 sentences of valid)" in card
    assert "1 pair of the validation corpus without text on a side: not scored (first: valid.zh:10)" in said
    counted = regard("params", "run/run.toml", cwd=tmp_path).stderr.decode()
    assert "counted with data.vocabulary = 60,000 subwords; a small text gives fewer" in counted


def test_a_blank_validation_corpus_is_refused(regard: Regard, tmp_path: Path) -> None:
    write_corpus(tmp_path, "train", pairs(120, seed=8))
    write_corpus(tmp_path, "valid", [("", ""), (" ", "\u3000")])
    message = refused(regard("train", "train.zh", "train.en", "--valid", "valid", *SMALL, cwd=tmp_path))
    assert message == "data.valid: none of its 2 pairs has text on both sides: there is nothing to score"
    assert not (tmp_path / "run" / "model.safetensors").exists()
