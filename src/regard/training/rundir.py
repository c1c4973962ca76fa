"""The run directory: who may write to it, with which configuration, and what an earlier run left there."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from regard import directory, files
from regard.config import Config, read_config, to_toml
from regard.errors import RegardError
from regard.training.metrics import METRICS, TENSORBOARD, TIMING
from regard.training.snapshots import SNAPSHOTS

CONFIG, CHECKPOINTS, DATA = "run.toml", "checkpoints", "data"

# What a run writes beside its shards; --force takes away these and nothing else.
_FOLDERS = (CHECKPOINTS, SNAPSHOTS, TENSORBOARD)
_FILES = (
    CONFIG,
    METRICS,
    TIMING,
    directory.CONFIG,
    directory.WEIGHTS,
    directory.TEXT,
    directory.TOKENIZER,
    directory.TARGET_TOKENIZER,
    directory.CARD,
    files.MANIFEST,
)

# Settings that may change when a run goes on; with any other it would not be the same run.
CHANGEABLE = {
    "training.steps",
    "training.minutes",
    "training.patience",
    "training.keep_checkpoints",
    "training.save_every",
    "training.threads",
    "training.log_every",
    "training.samples",
    "data.cache",
    "decoding",
}


@contextlib.contextmanager
def opened(run: Path, config: Config, *, resume: bool, force: bool) -> Iterator[None]:
    """Hold the run directory for this process, ready for a new run or to go on with the one that is there."""
    if run.exists() and not run.is_dir():
        raise RegardError(f"{run}: expected a run directory, found a file")
    if resume and not (run / CONFIG).is_file():
        raise RegardError(f"{run}: no run to go on with: it has no {CONFIG}")
    occupied = [name for name in (*_FOLDERS, *_FILES) if (run / name).exists()]
    if occupied and not (resume or force):
        raise RegardError(
            f"{run}: already holds a run or model ({occupied[0]}); go on with: regard train --resume {run}, "
            "or write over it with --force"
        )
    with files.writing(run):
        run.mkdir(parents=True, exist_ok=True)
    with files.locked(run / ".lock", f"{run}: another training is writing to it; wait for it or choose another folder"):
        if resume:
            check_same(read_config(run / CONFIG), config, run)
        else:
            clear(run)
        files.write_atomic(run / CONFIG, to_toml(config).encode())
        yield


def clear(run: Path) -> None:
    """Take away what an earlier run wrote; the shards stay, since they are checked by their own fingerprint."""
    # The configuration goes last: a directory that was cleared by half is still seen to be a run.
    for name in _FOLDERS:
        shutil.rmtree(run / name, ignore_errors=True)
    for name in reversed(_FILES):
        (run / name).unlink(missing_ok=True)


def check_same(before: Config, now: Config, run: Path) -> None:
    """An error that names the first setting that may not change within a run."""
    old, new = _flat(before), _flat(now)
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) == new.get(key) or key in CHANGEABLE or key.partition(".")[0] in CHANGEABLE:
            continue
        raise RegardError(
            f"{run}: cannot go on with {key} = {new.get(key)!r}: the run was begun with {old.get(key)!r}; "
            "begin a new run for another value"
        )


def _flat(config: Config) -> dict[str, Any]:
    import dataclasses

    sections = dataclasses.asdict(config)
    flat: dict[str, Any] = {"seed": sections.pop("seed")}
    for section, values in sections.items():
        flat |= {f"{section}.{key}": value for key, value in values.items()}
    return flat
