"""``regard train --prove-resume``: shows that a killed and resumed run equals an uninterrupted one, bit for bit.

A shortened copy of the user's configuration is trained twice by real ``regard train`` processes. One runs through. The
other is killed by SIGKILL between two updates, inside a validation and inside a save, and resumed with ``--resume``
each time. Then all files of both runs are compared by SHA-256.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from regard import directory, files, manifest
from regard.config import Config, to_toml
from regard.errors import RegardError
from regard.training import checkpoint, snapshots
from regard.training.metrics import METRICS
from regard.weights import WEIGHTS

STEPS = 40  # of the shortened run: four saves, two validations
_LEAST = 12
_SENTENCES = 32  # of the validation corpus: enough to be killed inside


@dataclass(frozen=True)
class Part:
    """One row of the table: the SHA-256 of one part in both runs."""

    name: str
    uninterrupted: str
    interrupted: str

    @property
    def same(self) -> bool:
        return self.uninterrupted == self.interrupted


@dataclass(frozen=True)
class Proof:
    """The compared parts, and where the process was killed: (point, its meaning)."""

    steps: int
    kills: tuple[tuple[str, str], ...]
    parts: tuple[Part, ...]

    @property
    def holds(self) -> bool:
        return bool(self.parts) and all(part.same for part in self.parts)

    def lines(self) -> list[str]:
        """The table as lines of text."""
        width = max(len(part.name) for part in self.parts)
        rows = [f"{'':<{width}}  uninterrupted  interrupted"]
        for part in self.parts:
            same = "same" if part.same else "DIFFERENT"
            rows.append(f"{part.name:<{width}}  {part.uninterrupted[:12]:<13}  {part.interrupted[:12]:<12}  {same}")
        where = ", ".join(meaning for _, meaning in self.kills)
        verdict = "equal, bit for bit" if self.holds else "NOT equal"
        rows.append(f"{self.steps} updates, killed {where}: {verdict}")
        return rows


def shortened(config: Config, cache: Path, steps: int = STEPS) -> Config:
    """The same training with fewer updates, saved and validated often enough to be killed inside."""
    steps = max(_LEAST, min(steps, config.training.steps))
    sentences = min(config.training.validate_sentences or _SENTENCES, _SENTENCES)
    training = replace(
        config.training,
        steps=steps,
        minutes=0.0,
        patience=0,
        save_every=steps // 4,
        validate_every=steps * 3 // 8,
        log_every=1,
        validate_sentences=sentences,
    )
    data = replace(config.data, cache=config.data.cache or str(cache))
    return replace(config, training=training, data=data)


def kills(config: Config) -> tuple[tuple[str, str], ...]:
    """The points at which the second run is killed, each with its meaning.

    With 40 updates: after the 13th (resumed from 10), in the validation of the 15th (from 10), in the save of the 30th
    (from 20).
    """
    steps = config.training.save_every * 4 // 3
    return (
        (f"step#{steps}", "between two updates"),
        ("validate:measured", "inside a validation"),
        ("save:optimizer#2", "inside a save"),
    )


def prove_resume(
    config: Config, folder: Path, *, device: str = "auto", steps: int = STEPS, say: Callable[[str], None] = print
) -> Proof:
    """Train twice below ``folder``, which is deleted if the proof holds and kept if it does not."""
    folder = folder.absolute()
    if folder.exists():
        raise RegardError(f"{folder}: is there already; a proof needs a new folder")
    short = shortened(config, folder / "data", steps)
    path = folder / "config.toml"
    files.write_atomic(path, to_toml(short).encode())
    runs = folder / "uninterrupted", folder / "interrupted"
    say(f"{short.training.steps} updates without interruption, below {folder}")
    _train([str(path), "--run", str(runs[0]), "--device", device], "", say)
    arguments = [str(path), "--run", str(runs[1]), "--device", device]
    for point, meaning in kills(short):
        say(f"the same, killed {meaning} ({point})")
        _train(arguments, point, say)
        arguments = ["--resume", str(runs[1]), "--device", device]
    say("and on to the end")
    _train(arguments, "", say)
    proof = Proof(short.training.steps, kills(short), compare(*runs))
    if proof.holds:
        shutil.rmtree(folder)
    else:
        say(f"both runs are kept in {folder}")
    return proof


def fingerprint(run: Path) -> dict[str, str]:
    """SHA-256 of every file of a finished run that must not depend on interruptions."""
    found = {METRICS: manifest.sha256(run / METRICS)}
    for step in checkpoint.steps(run):
        for name, digest in checkpoint.digests(checkpoint.folder(run, step)).items():
            found[f"{checkpoint.CHECKPOINTS}/step-{step}/{name}"] = digest
    for path in sorted((run / snapshots.SNAPSHOTS).glob("step-*")):
        for name, digest in manifest.verify(path).items():
            found[f"{snapshots.SNAPSHOTS}/{path.name}/{name}"] = digest
    for name in (WEIGHTS, directory.CONFIG, directory.TEXT, directory.TOKENIZER, directory.TARGET_TOKENIZER):
        if (run / name).exists():
            found[name] = manifest.sha256(run / name)
    return found


def compare(uninterrupted: Path, interrupted: Path) -> tuple[Part, ...]:
    """The rows of the table; several files of one kind share one hash."""
    one, other = fingerprint(uninterrupted), fingerprint(interrupted)
    rows = []
    for title, belongs in _ROWS:
        chosen = [sorted((key, digest) for key, digest in found.items() if belongs(key)) for found in (one, other)]
        if chosen[0] or chosen[1]:
            rows.append(Part(title, *(_together(entries) for entries in chosen)))
    return tuple(rows)


_ROWS: tuple[tuple[str, Callable[[str], bool]], ...] = (
    ("weights", lambda key: key.startswith("checkpoints/") and key.endswith("/weights.safetensors")),
    ("moving average", lambda key: key.endswith("/ema.safetensors")),
    ("optimizer", lambda key: key.endswith("/optimizer.safetensors")),
    ("position, random streams, scores", lambda key: key.endswith("/record.json")),
    ("weights to be averaged", lambda key: key.startswith("snapshots/")),
    ("chosen model", lambda key: "/" not in key and key != METRICS),
    (METRICS, lambda key: key == METRICS),
)


def _together(entries: Iterable[tuple[str, str]]) -> str:
    import hashlib

    listed = list(entries)
    if len(listed) == 1:
        return listed[0][1]
    return hashlib.sha256("\n".join(f"{digest}  {key}" for key, digest in listed).encode()).hexdigest()


def _train(arguments: list[str], stop_at: str, say: Callable[[str], None]) -> None:
    """Run one process, which must be killed at ``stop_at``, or succeed if that is empty."""
    environment = {name: value for name, value in os.environ.items() if name != files.STOP_AT}
    if stop_at:
        environment[files.STOP_AT] = stop_at
    begun = time.monotonic()
    command = [sys.executable, "-m", "regard", "train", *arguments]
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8")
    expected = -signal.SIGKILL if stop_at else 0
    if done.returncode != expected:
        last = (done.stderr.strip().splitlines() or ["nothing was said"])[-1].removeprefix("regard: error: ")
        wanted = f"a process was to be killed at {stop_at} and ended with {done.returncode}: " if stop_at else ""
        raise RegardError(f"the proof could not be made: {wanted}{last}")
    say(f"  {'killed' if stop_at else 'done'} after {time.monotonic() - begun:.0f} s")
