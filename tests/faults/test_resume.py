"""Nothing is lost: real ``regard train`` processes are killed by SIGKILL, resumed, and compared bit for bit.

Dropout, subword dropout, accumulation, averaging, a moving average, validation and rotation are on. After every kill
the checkpoints that lie there are verified; after every resumed run SHA-256 of weights, averages, optimizer, position
and scores, and metrics.jsonl byte for byte, equal those of the run that nobody killed.
"""

from __future__ import annotations

import os
import random
import re
import signal
import time
from pathlib import Path
from typing import NamedTuple

import pytest
import tiny_run
from forkserver import Server

from regard import files
from regard.training import checkpoint, prove
from regard.training.metrics import read_rows

SAVE_EVERY = 10
# Inside save (a run saves 6 times), rotate (4 times), validate (4 times) and the writing of the chosen model (once).
POINTS = [
    *("save:begin", "save:weights#2", "save:optimizer", "save:ema#3", "save:record#2", "save:written#4"),
    *("save:synced#5", "save:manifest#6", "save:renamed", "save:end#3"),
    *("rotate:begin", "rotate:renamed#2", "rotate:file#4", "rotate:file#7", "rotate:end#3"),
    *("validate:begin", "validate:loss#2", "validate:translated#3", "validate:measured#4", "validate:recorded"),
    *("snapshot:manifest#2", "snapshot-rotate:renamed", "model:written", "model:renamed", "model:placed#3"),
]
QUICK = ["save:optimizer#2", "rotate:renamed", "validate:translated#2"]


class Reference(NamedTuple):
    """The run that nobody killed."""

    run: Path
    parts: dict[str, str]
    listing: set[str]
    seconds: float


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faults")
    tiny_run.write(folder)
    return folder


@pytest.fixture(scope="session")
def reference(server: Server, folder: Path) -> Reference:
    run = folder / "uninterrupted"
    begun = time.monotonic()
    finish(server, folder, run, resume=False)
    seconds = time.monotonic() - begun
    return Reference(run, prove.fingerprint(run), listing(run), seconds)


def arguments(folder: Path, run: Path, resume: bool) -> list[str]:
    if resume and (run / "run.toml").exists():
        return ["train", "--resume", str(run), "--device", "cpu"]
    # A process that died before it had written its configuration has begun nothing that could be resumed.
    again = ["--force"] if resume and run.exists() else []
    return ["train", "config.toml", "--run", str(run), "--device", "cpu", *again]


def finish(server: Server, folder: Path, run: Path, *, resume: bool) -> str:
    """Train to the end and return what the process said."""
    log = folder / f"{run.name}.log"
    log.unlink(missing_ok=True)
    code = server.wait(server.start(arguments(folder, run, resume), log, folder))
    assert code == 0, log.read_text()
    return log.read_text()


def listing(run: Path) -> set[str]:
    """Every file of a run, but for those whose names or number tell of time."""
    found = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    return {name for name in found if not name.startswith("tensorboard/")}


def check_killed(run: Path) -> int:
    """What a killed process left: every checkpoint under its own name is whole; returns the newest's step, or 0."""
    steps = checkpoint.steps(run)
    for step in steps:
        assert checkpoint.load(checkpoint.folder(run, step)).step == step
    if (run / "metrics.jsonl").exists():
        for row in read_rows(run / "metrics.jsonl"):
            # The redone work is less than the distance of two checkpoints.
            assert row["step"] <= (steps[-1] if steps else 0) + SAVE_EVERY
    return steps[-1] if steps else 0


def check_finished(reference: Reference, run: Path) -> None:
    """The resumed run is the uninterrupted one, bit for bit, and nothing else lies there."""
    parts = prove.fingerprint(run)
    assert parts == reference.parts, sorted(set(parts.items()) ^ set(reference.parts.items()))
    assert (run / "metrics.jsonl").read_bytes() == (reference.run / "metrics.jsonl").read_bytes()
    assert listing(run) == reference.listing


def kill_and_resume(server: Server, folder: Path, reference: Reference, run: Path, stop_at: str) -> None:
    log = folder / f"{run.name}.log"
    pid = server.start(arguments(folder, run, False), log, folder, {files.STOP_AT: stop_at})
    assert server.wait(pid) == -signal.SIGKILL, f"never came to {stop_at}:\n{log.read_text()}"
    newest = check_killed(run)
    said = finish(server, folder, run, resume=True)
    assert (f"going on from update {newest}" in said) == (newest > 0), said
    assert "not bit-exact" not in said
    check_finished(reference, run)


@pytest.mark.parametrize("stop_at", QUICK)
def test_three_kills(server: Server, folder: Path, reference: Reference, stop_at: str) -> None:
    kill_and_resume(server, folder, reference, folder / f"quick-{re.sub('[^a-z0-9]', '-', stop_at)}", stop_at)


@pytest.mark.slow
@pytest.mark.parametrize("stop_at", POINTS)
def test_named_points(server: Server, folder: Path, reference: Reference, stop_at: str) -> None:
    kill_and_resume(server, folder, reference, folder / f"point-{re.sub('[^a-z0-9]', '-', stop_at)}", stop_at)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(25))
def test_random_moments(server: Server, folder: Path, reference: Reference, number: int) -> None:
    """Killed at a moment between the start and the end, wherever the process is then: data, pre-flight, updates, …"""
    run = folder / f"random-{number}"
    # One moment in each 25th of the run, so that all of it is covered.
    delay = reference.seconds * (number + random.Random(number).random()) / 25
    pid = server.start(arguments(folder, run, False), folder / f"{run.name}.log", folder)
    time.sleep(delay)
    os.kill(pid, signal.SIGKILL)
    code = server.wait(pid)
    assert code in (-signal.SIGKILL, 0)  # 0: it was quicker than the uninterrupted one, and had ended
    check_killed(run)
    finish(server, folder, run, resume=True)
    check_finished(reference, run)


@pytest.mark.slow
def test_the_comparison_has_teeth(reference: Reference, server: Server, folder: Path) -> None:
    """Another seed, and any file of the run with one bit changed, is seen."""
    other = folder / "another-seed"
    log = folder / "another-seed.log"
    command = [*arguments(folder, other, False), "--seed", "4"]
    assert server.wait(server.start(command, log, folder)) == 0, log.read_text()
    parts = prove.fingerprint(other)
    differing = {name for name in parts if parts[name] != reference.parts.get(name)}
    for name in ("weights.safetensors", "optimizer.safetensors", "ema.safetensors", "record.json"):
        assert any(path.endswith(name) for path in differing), name
    assert {"metrics.jsonl", "model.safetensors"} <= differing
