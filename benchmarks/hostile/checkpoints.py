"""Runs whose checkpoints, snapshots, shards or logs are damaged: going on finds a whole checkpoint, or says why not.

A run of 40 updates has checkpoints at 30 and 40. What is damaged without its manifest knowing must be found, and the
run must end with the bits that it had: from the older checkpoint the last ten updates are made again. What is refused
must leave the other checkpoint as it was.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import evidence

from hostile import Case, chosen, damage_json, damaged, fresh, rewrite_manifest, rng_of
from hostile.command import attempt

COUNT = 800
STEPS, EVERY = 40, 10
CONFIG = f"""
seed = 3
[data]
train = "train"
valid = "valid"
source = "xx"
target = "en"
vocabulary = 300
[model]
width = 16
encoder_layers = 1
decoder_layers = 1
heads = 2
feedforward = 32
dropout = 0.1
[training]
steps = {STEPS}
batch_tokens = 200
learning_rate = 0.02
warmup_steps = 10
validate_every = 20
validate_sentences = 4
save_every = {EVERY}
keep_checkpoints = 2
keep = 1
average = 2
ema = 0.5
log_every = 5
threads = 1
[decoding]
beam = 1
max_extra = 3
"""
JSON = ("record.json", "clock.json", "environment.json", "manifest.json")


def cases(seed: int, numbers: Iterable[int], folder: Path) -> Iterator[Case]:
    """Each case is one run directory, ``folder/case``, with which a training is asked to go on."""
    original = _trained(folder)
    place = folder / "case"
    for number in numbers:
        rng = rng_of(seed, number)
        run = fresh(original, place)
        name, change = chosen(rng, KINDS)
        label, touched = change(run, rng)
        known = name in ("bytes", "JSON", "missing") and rng.random() < 0.5 and touched in (STEPS - EVERY, STEPS)
        if known and _checkpoint(run, touched).is_dir():
            rewrite_manifest(_checkpoint(run, touched))
        check = partial(_lost, original, run, touched, known)
        label = f"{name}: {label}{'; manifest rewritten' if known else ''}"
        yield Case(number, label, partial(attempt, ["train", "--resume", str(place)], folder, check))


def _lost(original: Path, run: Path, touched: int, known: bool, verdict: str) -> str:
    """The loss of a run whose process ended well; "" where it lost nothing. ``known``: its manifest fits the damage."""
    if verdict == "accepted" and not known:
        for name in ("weights.safetensors", "optimizer.safetensors"):
            one, other = (_checkpoint(folder, STEPS) / name for folder in (original, run))
            if not other.exists() or one.read_bytes() != other.read_bytes():
                return f"ended with another {name} than the run that nobody damaged"
    if verdict == "refused":
        for step in {STEPS - EVERY, STEPS} - {touched}:
            for path in _checkpoint(original, step).iterdir():
                other = _checkpoint(run, step) / path.name
                if not other.is_file() or other.read_bytes() != path.read_bytes():
                    return f"was refused, and {path.name} of the undamaged checkpoint {step} is not what it was"
    return ""


def _trained(folder: Path) -> Path:
    """The run that nobody damaged, trained by a process of its own: no product is computed before the forks."""
    draw = random.Random(5)
    words = ["".join(draw.choices("abcdefghik", k=draw.randint(1, 4))) for _ in range(12)]
    for name, count in (("train", 200), ("valid", 8)):
        lines = [" ".join(draw.choices(words, k=draw.randint(1, 6))) for _ in range(count)]
        for language in ("xx", "en"):
            (folder / f"{name}.{language}").write_text("".join(f"{line}\n" for line in lines), "utf-8")
    config = CONFIG.replace('"train"', json.dumps(str(folder / "train"))).replace(
        '"valid"', json.dumps(str(folder / "valid"))
    )
    (folder / "config.toml").write_text(config, "utf-8")
    run = folder / "original"
    command = [sys.executable, "-m", "regard", "train", folder / "config.toml", "-o", run, "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=evidence.ROOT, env=environment, capture_output=True, encoding="utf-8")
    if done.returncode:
        sys.exit(f"the run of the checkpoints could not be trained:\n{done.stderr}")
    return run


def _checkpoint(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step}"


def _one(run: Path, rng: random.Random) -> tuple[int, Path]:
    """A checkpoint, the newest more often, and one of its files."""
    step = rng.choice((STEPS, STEPS, STEPS - EVERY))
    return step, rng.choice(sorted(_checkpoint(run, step).iterdir()))


def _bytes(run: Path, rng: random.Random) -> tuple[str, int]:
    step, path = _one(run, rng)
    path.write_bytes(damaged(path.read_bytes(), rng))
    return f"{path.name} of {step}", step


def _json(run: Path, rng: random.Random) -> tuple[str, int]:
    step = rng.choice((STEPS, STEPS, STEPS - EVERY))
    path = _checkpoint(run, step) / rng.choice(JSON)
    path.write_text(damage_json(path.read_text("utf-8"), rng), "utf-8", "surrogatepass")
    return f"{path.name} of {step}", step


def _missing(run: Path, rng: random.Random) -> tuple[str, int]:
    step, path = _one(run, rng)
    path.unlink()
    return f"{path.name} of {step}", step


def _swapped(run: Path, rng: random.Random) -> tuple[str, int]:
    """A file of the older checkpoint in the newer one, or the other way round."""
    step, path = _one(run, rng)
    shutil.copy(_checkpoint(run, 2 * STEPS - EVERY - step) / path.name, path)
    return f"{path.name} of the other in {step}", step


def _special(run: Path, rng: random.Random) -> tuple[str, int]:
    step, path = _one(run, rng)
    path.unlink()
    target = rng.choice(("/dev/zero", "/dev/random", "nowhere", path.name, "/etc/passwd", ".."))
    changes: dict[str, Callable[[], Any]] = {
        "a FIFO": lambda: os.mkfifo(path),
        "a folder": path.mkdir,
        "a hole": lambda: (path.touch(), os.truncate(path, 1 << 40)),
        f"a link to {target}": lambda: path.symlink_to(target),
    }
    kind = rng.choice(list(changes))
    changes[kind]()
    return f"{path.name} of {step} is {kind}", step


def _folders(run: Path, rng: random.Random) -> tuple[str, int]:
    """Folders with names that no run gives, and what killed writers leave."""
    place = run / "checkpoints"
    changes: dict[str, Callable[[], Any]] = {
        "step-50 is empty": (place / "step-50").mkdir,
        "step-50 is a file": lambda: (place / "step-50").write_bytes(b"x"),
        "step-50 is step-30": lambda: shutil.copytree(place / "step-30", place / "step-50"),
        "step-x": (place / "step-x").mkdir,
        "step-²": (place / "step-²").mkdir,
        "step-99999999999999999999": (place / "step-99999999999999999999").mkdir,
        "half a step-50": lambda: shutil.copytree(place / "step-30", place / ".step-50.partial"),
        "step-0": lambda: shutil.copytree(place / "step-30", place / "step-0"),
        "step-40.damaged is there already": lambda: shutil.copytree(place / "step-30", place / "step-40.damaged"),
    }
    kind = rng.choice(list(changes))
    changes[kind]()
    return kind, 0


def _around(run: Path, rng: random.Random) -> tuple[str, int]:
    """The run's own files: configuration, log, snapshots and shards."""
    paths = [run / "run.toml", run / "metrics.jsonl", run / "timing.jsonl"]
    paths += [path for name in ("snapshots", "data") for path in sorted((run / name).rglob("*")) if path.is_file()]
    path = rng.choice(paths)
    if rng.random() < 0.2:
        path.unlink()
        return f"{path.relative_to(run)} missing", 0
    path.write_bytes(damaged(path.read_bytes(), rng))
    return str(path.relative_to(run)), 0


KINDS: dict[str, tuple[int, Callable[[Path, random.Random], tuple[str, int]]]] = {
    "bytes": (6, _bytes),
    "JSON": (5, _json),
    "missing": (1, _missing),
    "swapped": (1, _swapped),
    "special file": (2, _special),
    "folders": (1, _folders),
    "around": (4, _around),
}
