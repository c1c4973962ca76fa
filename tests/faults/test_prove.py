"""``regard train --prove-resume`` as a user types it: five real processes, three kills, one table, one exit code."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_run
import torch

from regard.config import read_config
from regard.errors import RegardError
from regard.training import checkpoint, prove, snapshots
from regard.training.state import TrainingState


def prove_resume(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "regard", "train", "config.toml", "--prove-resume", "--device", "cpu", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


TWO_THREADS = ("--set", "training.threads=2", "--set", "training.batch_tokens=2000")  # of which batches get two parts


@pytest.mark.slow
@pytest.mark.parametrize("sets", [(), TWO_THREADS], ids=["one thread", "two threads"])
def test_the_proof_holds(tmp_path: Path, sets: tuple[str, ...]) -> None:
    tiny_run.write(tmp_path)
    done = prove_resume(tmp_path, "--run", "run", *sets)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    names = ["weights", "moving average", "optimizer", "position", "weights to be averaged", "chosen model", "metrics"]
    for name, line in zip(names, lines[1:], strict=False):
        assert line.startswith(name) and line.endswith("same"), line
    assert lines[-1].startswith("40 updates, killed between two updates, inside a validation, inside a save: equal")
    assert done.stderr.count("killed after") == 3
    assert not (tmp_path / "run").exists(), "a proof that holds leaves nothing behind"


WORDS = ["the", "king", "and", "queen", "of", "all", "lands", "go", "to", "sea", "in", "good", "ships", "with", "gold"]


def corpus_of(task: str, folder: Path) -> str:
    """A text, or labelled texts, of a task; returns the file's name."""
    draw = random.Random(1)
    rows = [draw.choices(WORDS, k=8) for _ in range(200)]
    if task == "classification":
        lines = ["text\tlabel", *(f"{' '.join(row)}\t{'rich' if 'gold' in row else 'poor'}" for row in rows)]
    else:
        lines = [" ".join(row) for row in rows]
    name = "wealth.tsv" if task == "classification" else "plays.txt"
    (folder / name).write_text("\n".join(lines) + "\n", "utf-8")
    return name


@pytest.mark.slow
@pytest.mark.parametrize("task", ["language_model", "masked", "classification"])
def test_the_proof_holds_for_every_task(task: str, tmp_path: Path) -> None:
    options = {"width": 32, "layers": 1, "heads": 2, "feedforward": 32}
    command = [
        sys.executable, "-m", "regard", "train", corpus_of(task, tmp_path), "--task", task, "--prove-resume",
        "--device", "cpu", "--max-length", "24", "--batch-tokens", "256", "--ema", "0.9", "-o", "run",
        *(word for key, value in options.items() for word in ("--set", f"model.{key}={value}")),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].endswith("equal, bit for bit")
    assert done.stderr.count("killed after") == 3


def make_run(run: Path) -> Path:
    """The files of a finished run, made by hand."""
    weights = {"a": torch.ones(3)}
    state = TrainingState(
        step=4, weights=weights, optimizer={"exp_avg.a": torch.zeros(3)}, ema=weights, position={"n": 1}
    )
    checkpoint.save(run, state, {})
    snapshots.write_snapshot(run, 4, weights)
    for name in ("metrics.jsonl", "model.safetensors", "config.json", "text.json", "tokenizer.json"):
        (run / name).write_text("{}")
    return run


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("metrics.jsonl", "metrics.jsonl"),
        ("model.safetensors", "chosen model"),
        ("tokenizer.json", "chosen model"),
        ("weights", "weights"),
        ("ema", "moving average"),
        ("optimizer", "optimizer"),
        ("position", "position, random streams, scores"),
        ("snapshot", "weights to be averaged"),
    ],
)
def test_every_part_is_compared(tmp_path: Path, name: str, row: str) -> None:
    """Two runs that differ in one part differ in the row of the table that this part belongs to."""
    one = make_run(tmp_path / "one")
    other = Path(shutil.copytree(one, tmp_path / "other"))
    assert prove.Proof(40, (), prove.compare(one, other)).holds
    if (other / name).exists():
        (other / name).write_text("[]")
    elif name == "snapshot":
        snapshots.write_snapshot(other, 4, {"a": torch.zeros(3)})
    else:
        state = checkpoint.load(checkpoint.folder(other, 4))
        getattr(state, name).clear()
        getattr(state, name)["b"] = 2 if name == "position" else torch.ones(3)
        checkpoint.save(other, state, {})
    proof = prove.Proof(40, (("save:x", "inside a save"),), prove.compare(one, other))
    assert [part.name for part in proof.parts if not part.same] == [row] and not proof.holds
    assert any(line.startswith(row) and line.endswith("DIFFERENT") for line in proof.lines())
    assert proof.lines()[-1] == "40 updates, killed inside a save: NOT equal"


def test_a_shortened_run_is_still_killed_three_times(tmp_path: Path) -> None:
    tiny_run.write(tmp_path)
    for given, steps in ((100_000, 40), (60, 40), (25, 25), (3, 12)):
        config = read_config(tmp_path / "config.toml", [f"training.steps={given}", "training.minutes=30"])
        short = prove.shortened(config, tmp_path / "cache")
        training = short.training
        assert (training.steps, training.minutes, training.patience) == (steps, 0.0, 0)
        (step, _), (validate, _), (save, _) = prove.kills(short)
        first = int(step.partition("#")[2])
        assert training.save_every < first < training.validate_every * 2 and first < 2 * training.save_every
        # The second process goes on from the first save and meets a validation; the third meets two more saves.
        assert training.save_every < training.validate_every < steps and 3 * training.save_every <= steps
        assert (validate, save) == ("validate:measured", "save:optimizer#2")


def test_a_process_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_run.write(tmp_path)
    monkeypatch.chdir(tmp_path)
    config = read_config(tmp_path / "config.toml", ["data.valid=nowhere"])
    with pytest.raises(RegardError, match=r"the proof could not be made: .*nowhere.*no such file"):
        prove.prove_resume(config, tmp_path / "proof", device="cpu", say=lambda line: None)
