"""Snapshots: weights of the last and best validated steps, which may still be chosen (``snapshots/step-N/``).

Snapshots are apart from checkpoints, which are three times as large and few. A snapshot is written before the
checkpoint that needs it and deleted when no checkpoint needs it any more, so that a run resumed from any checkpoint
finds its snapshots.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from regard import files, manifest
from regard.errors import RegardError
from regard.models.contract import Model
from regard.weights import read_tensors, write_tensors

SNAPSHOTS = "snapshots"
_WEIGHTS = "weights.safetensors"


def folder(run: Path, step: int) -> Path:
    return run / SNAPSHOTS / f"step-{step}"


def write_snapshot(run: Path, step: int, weights: Mapping[str, Tensor]) -> None:
    """Write these weights, named as in a model directory; a snapshot that a killed run left is replaced."""
    place = folder(run, step)
    if place.exists():
        files.remove_folder(place, name="snapshot-rotate")
    files.write_folder(place, lambda inside: write_tensors(inside / _WEIGHTS, weights), name="snapshot")


def read_snapshot(run: Path, step: int) -> dict[str, Tensor]:
    """Read the weights of a step, checked against their hashes."""
    place = folder(run, step)
    manifest.verify(place, (_WEIGHTS,))
    return read_tensors(place / _WEIGHTS)


def put(model: Model, weights: Mapping[str, Tensor]) -> None:
    """Load weights named as in a model directory, where a tied table stands once."""
    try:
        model.load_state_dict({**weights, **{left_out: weights[kept] for left_out, kept in model.ties.items()}})
    except (KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise RegardError(f"the kept weights are not those of this run's model ({reason})") from None


def last(scores: Sequence[tuple[int, float]], count: int) -> list[int]:
    """The steps of the last validations."""
    return [step for step, _ in scores[-count:]]


def best(scores: Sequence[tuple[int, float]], count: int) -> list[int]:
    """The steps of the best validations, best first; of equals the earlier."""
    ranked = sorted(scores, key=lambda entry: (-entry[1], entry[0]))
    return [step for step, _ in ranked[:count]]


def needed(scores: Sequence[tuple[int, float]], *, average: int, keep: int, checkpoints: Iterable[int]) -> set[int]:
    """The steps whose weights a run resumed from any of the ``checkpoints`` may need."""
    steps: set[int] = set()
    for checkpoint in checkpoints:
        seen = [entry for entry in scores if entry[0] <= checkpoint]
        steps |= {*last(seen, average), *best(seen, max(keep, average))}
    return steps


def prune(run: Path, keep: set[int]) -> None:
    """Delete the snapshots of all other steps, and the files that killed writers left."""
    files.sweep(run / SNAPSHOTS)
    for place in sorted((run / SNAPSHOTS).glob("step-*")):
        step = place.name.removeprefix("step-")
        if step.isascii() and step.isdigit() and int(step) not in keep:
            files.remove_folder(place, name="snapshot-rotate")
