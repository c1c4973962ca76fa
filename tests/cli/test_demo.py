"""``regard demo`` as a beginner runs it, with seconds in place of minutes and a toy in place of the packaged model."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import regard as package
from regard.cli import demo
from regard.cli.demo import SENTENCES, configuration, corpus
from regard.config import read_config, to_toml
from regard.training.finish import RunResult

from .conftest import Regard, refused

pytestmark = pytest.mark.slow


def test_from_translation_to_a_model_of_ones_own(regard: Regard, model: Path, tmp_path: Path) -> None:
    flags = ["--minutes", 0.02, "--dev", 10, "--model", model, "--device", "cpu"]
    done = regard("demo", *flags, cwd=tmp_path, timeout=600)
    said = done.stdout.decode()
    assert done.returncode == 0, done.stderr.decode()
    # Each sentence twice, by the first model and by the one that was trained, and once in the advice.
    assert said.count("我爱机器学习") == 3 and all(said.count(sentence) == 2 for sentence in SENTENCES)
    assert "BLEU on 10 sentences of dev:" in said and "nrefs:1|case:mixed" in said
    assert any(shade in said for shade in "░▒▓█")
    assert "regard train --resume runs/demo" in said and "regard translate" in said
    assert (tmp_path / "runs" / "demo-attention.png").read_bytes().startswith(b"\x89PNG")
    assert "validation loss" in done.stderr.decode()
    package.load(str(tmp_path / "runs" / "demo"))

    # What it says to type next works, and a second demo takes the place of the first.
    resumed = regard("train", "--resume", "runs/demo", "--minutes", 0.03, cwd=tmp_path, timeout=600)
    assert resumed.returncode == 0, resumed.stderr.decode()
    again = regard("demo", *flags, "--seed", 2, cwd=tmp_path, timeout=600)
    assert again.returncode == 0 and read_config(tmp_path / "runs" / "demo" / "run.toml").seed == 2


def test_without_training_it_takes_seconds(regard: Regard, model: Path, tmp_path: Path) -> None:
    done = regard("demo", "--minutes", 0, "--model", model, cwd=tmp_path)
    said = done.stdout.decode()
    assert done.returncode == 0 and "resume" not in said and said.count(SENTENCES[0]) == 1


def test_a_run_of_ones_own_is_not_written_over(regard: Regard, model: Path, workshop: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "run.toml").write_bytes((workshop / "runs" / "tiny" / "run.toml").read_bytes())
    done = regard("demo", "--minutes", 0.01, "--model", model, "--run", mine, cwd=tmp_path)
    assert "already holds a run" in refused(done)


@pytest.mark.parametrize("changed", [["model.width=64"], ["training.warmup_steps=7"], ["data.vocabulary=500"]])
def test_another_model_on_the_packaged_corpus_is_not_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: list[str]
) -> None:
    forced = []

    def train(*_: Any, force: bool, **__: Any) -> RunResult:
        forced.append(force)
        return RunResult(tmp_path, 1, "interrupted")

    monkeypatch.setattr("regard.training.loop.train", train)
    own = configuration(3.0, seed=1)
    demos = [configuration(9.0, seed=2, dev=10), dataclasses.replace(own, seed=7)]
    (tmp_path / "base.toml").write_text(to_toml(own), "utf-8")
    for config in (*demos, read_config(tmp_path / "base.toml", changed)):
        (tmp_path / "run.toml").write_text(to_toml(config), "utf-8")
        demo._train(Console(quiet=True), tmp_path, own, "cpu")
    assert forced == [True, True, False]


@pytest.mark.parametrize(("run", "name"), [(".", "here-attention.png"), ("..", "{}-attention.png")])
def test_the_folder_one_stands_in_has_a_name(regard: Regard, model: Path, tmp_path: Path, run: str, name: str) -> None:
    (tmp_path / "here").mkdir()
    done = regard("demo", "--minutes", 0, "--model", model, "-o", run, cwd=tmp_path / "here")
    assert done.returncode == 0, done.stderr.decode()
    picture = (tmp_path / "here" / run).resolve().with_name(name.format(tmp_path.name))
    assert picture.read_bytes().startswith(b"\x89PNG")
    picture.unlink()
    assert "/: expected a folder" in refused(regard("demo", "--model", model, "-o", "/"))


def test_the_packaged_corpus_is_whole() -> None:
    from regard.data.corpus import read_pairs

    config = configuration(3.0, 1)
    assert sum(1 for _ in read_pairs(config.data.train[0], config.data)) == 25_075
    assert sum(1 for _ in read_pairs(config.data.valid, config.data)) == 1_000
    assert "CC BY 2.0 FR" in (corpus() / "LICENSE.md").read_text("utf-8")


def test_no_answer_is_in_the_code() -> None:
    """The demo's sentences are given without translations: no English word of an answer stands in its file."""
    import regard.cli.demo

    text = Path(regard.cli.demo.__file__).read_text("utf-8").lower()
    assert not re.search(r"i (love|like)|machine learning|your name|\b(weather|rains?|library|cheaper)\b", text)


def test_the_packaged_model_translates_at_once(regard: Regard, tmp_path: Path) -> None:
    done = regard("demo", "--minutes", 0, cwd=tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().count("→") >= len(SENTENCES)
