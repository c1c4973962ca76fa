"""Paths as people have them, commas and spaces included: what names one file or one run stays one."""

from __future__ import annotations

import tomllib
from pathlib import Path

from .conftest import Regard, pairs, write_corpus

SMALL = ("--steps", "2", "--validate-every", "2", "--save-every", "2", "--set", "model.width=16", "--threads", "1")
SMALL += ("--set", "model.heads=2", "--set", "model.feedforward=16", "--vocabulary", "330", "--batch-tokens", "512")


def test_a_training_among_commas_and_spaces_ends_and_goes_on(regard: Regard, tmp_path: Path) -> None:
    """The two files and the run's own corpus were taken apart at their commas."""
    folder = tmp_path / "c,d"
    folder.mkdir()
    write_corpus(folder, " t,50", pairs(120, seed=6))
    run = tmp_path / " a,b "
    done = regard("train", "c,d/ t,50.zh", "c,d/ t,50.en", *SMALL, "-o", " a,b ", cwd=tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    assert (run / "model.safetensors").exists() and sorted(path.name for path in tmp_path.iterdir()) == [" a,b ", "c,d"]
    done = regard("train", "--resume", " a,b ", "--steps", "4", cwd=tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    assert regard("translate", " a,b ", "c,d/ t,50.zh", cwd=tmp_path).stdout.count(b"\n") == 120


def test_a_validation_corpus_with_a_comma_and_a_resumed_run_of_two_named_files(regard: Regard, tmp_path: Path) -> None:
    rows = pairs(120, seed=6)
    write_corpus(tmp_path, "t", rows[:100])
    write_corpus(tmp_path, "v,1", rows[100:])
    done = regard("train", "t.zh", "t.en", *SMALL, "--valid", "v,1", "-o", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    data = tomllib.loads((tmp_path / "run" / "run.toml").read_text("utf-8"))["data"]
    assert data["train"] == [["t.zh", "t.en"]] and data["valid"] == "v,1"
    assert "20 sentences of v,1" in (tmp_path / "run" / "README.md").read_text("utf-8")
    two = ("--set", 'data.valid=["v,1.zh", "v,1.en"]', "-o", "other")
    done = regard("train", "run/run.toml", *two, cwd=tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    data = tomllib.loads((tmp_path / "other" / "run.toml").read_text("utf-8"))["data"]
    assert data["valid"] == ["v,1.zh", "v,1.en"]
    done = regard("train", "--resume", "other", "--steps", "4", cwd=tmp_path)
    assert done.returncode == 0, done.stderr.decode()
