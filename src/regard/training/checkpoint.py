"""Checkpoints to resume from: ``checkpoints/step-N/``, tensors as safetensors and the rest as JSON, never a pickle.

A folder holds ``weights``, ``optimizer`` and, if training keeps one, ``ema`` (safetensors), ``record.json`` (position
and history; with the seed they determine the random streams), ``clock.json`` (seconds, the only part that may differ
between two equal runs), ``environment.json`` (machine, build and threads) and the manifest with the SHA-256 of each.
"""

from __future__ import annotations

import contextlib
import json
import math
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from regard import files, manifest, regular
from regard.errors import RegardError
from regard.training.state import TrainingState
from regard.weights import read_tensors, write_tensors

FORMAT_VERSION = 1
CHECKPOINTS = "checkpoints"
POSITION, CLOCK, ENVIRONMENT = "record.json", "clock.json", "environment.json"
TENSORS = ("weights", "optimizer", "ema")
_DAMAGED = ".damaged"


def folder(run: Path, step: int) -> Path:
    """The folder of a step's checkpoint."""
    return run / CHECKPOINTS / f"step-{step}"


def steps(run: Path) -> list[int]:
    """The steps of a run's checkpoints, oldest first, damaged ones included."""
    names = [path.name.removeprefix("step-") for path in (run / CHECKPOINTS).glob("step-*")]
    return sorted(int(name) for name in names if name.isascii() and name.isdigit())


def save(run: Path, state: TrainingState, environment: Mapping[str, str]) -> Path:
    """Write a checkpoint by the write protocol. Points: ``save:weights`` … ``save:record``, and ``write_folder``'s."""

    def writer(inside: Path) -> None:
        for name in TENSORS:
            tensors: dict[str, Tensor] = getattr(state, name)
            if tensors:
                write_tensors(inside / f"{name}.safetensors", {key: value.cpu() for key, value in tensors.items()})
                files.point(f"save:{name}")
        _write_json(inside / POSITION, {"format_version": FORMAT_VERSION, "step": state.step, "record": state.position})
        files.point("save:record")
        _write_json(inside / CLOCK, state.clock)
        _write_json(inside / ENVIRONMENT, environment)

    target = folder(run, state.step)
    files.write_folder(target, writer, name="save")
    return target


def load(place: Path) -> TrainingState:
    """Read a checkpoint, every byte checked against its manifest; a fault is a RegardError."""
    place = files.current(place)
    hashes = manifest.verify(place, (POSITION, CLOCK, ENVIRONMENT))
    values = regular.read_json(place / POSITION)
    version, step, position = (values.get(key) for key in ("format_version", "step", "record"))
    if version != FORMAT_VERSION:
        raise RegardError(
            f"{place / POSITION}: unknown format_version {version!r:.40}: this regard reads {FORMAT_VERSION}"
        )
    if not isinstance(step, int) or not isinstance(position, dict):
        raise RegardError(f"{place / POSITION}: damaged: expected 'step' (a number) and 'record' (a table)")
    if step != (named := _named_step(place)):
        raise RegardError(f"{place / POSITION}: is of step {step}, but stands in the folder of step {named}")
    for name in ("weights.safetensors", "optimizer.safetensors", CLOCK, ENVIRONMENT):
        if name not in hashes:
            raise RegardError(f"{place / name}: missing, and {manifest.MANIFEST} does not list it")
    tensors = {}
    for name in TENSORS:
        path = place / f"{name}.safetensors"
        tensors[name] = read_tensors(path) if path.name in hashes else {}
        for key, tensor in tensors[name].items():
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                raise RegardError(f"{path}: '{key}' holds numbers that are not finite (NaN or infinity)")
    clock = {}
    for key, value in regular.read_json(place / CLOCK).items():
        if not isinstance(value, int | float):
            raise RegardError(f"{place / CLOCK}: '{key}' is {value!r:.40}, expected a number of seconds")
        clock[key] = float(value)
    regular.read_json(place / ENVIRONMENT)  # a fault is found while an older checkpoint can be taken
    return TrainingState(step=step, position=_unpacked(position), clock=clock, **tensors)


def latest(
    run: Path,
    say: Callable[[str], None],
    check: Callable[[TrainingState], object] = lambda state: None,
    *,
    alone: bool = True,
) -> TrainingState | None:
    """The newest whole checkpoint, or None where a run has none yet.

    Newer, damaged ones are reported through ``say`` and renamed to ``step-N.damaged``, so that they are neither read
    again nor counted among the newest; if none is whole, that is an error. Files that killed writers left are removed.
    ``check`` raises for a state that cannot be used although its hashes are right. Of several processes only the one
    with ``alone`` removes and renames.
    """
    if alone:
        files.sweep(run / CHECKPOINTS)
    found = [step for step in steps(run) if step > 0]  # earlier versions wrote one without an optimizer at update 0
    faults: list[tuple[int, str]] = []
    for step in reversed(found):
        try:
            state = load(folder(run, step))
            check(state)
        except RegardError as error:
            faults.append((step, str(error)))
            continue
        for damaged, fault in faults:
            aside = f"step-{damaged}{_DAMAGED}"
            say(f"step-{damaged} cannot be used, going on from step-{step}: {fault} (set aside as {aside})")
            if alone:
                _set_aside(folder(run, damaged))
        return state
    if faults:
        raise RegardError(f"{run / CHECKPOINTS}: no checkpoint is whole; the newest: {faults[0][1]}")
    return None


def rotate(run: Path, keep: int) -> list[int]:
    """Delete all but the ``keep`` newest checkpoints and return the remaining steps. Points: ``rotate:…``."""
    remaining = steps(run)[-keep:]
    for step in steps(run)[:-keep]:
        files.remove_folder(folder(run, step), name="rotate")
    return remaining


def environment(device: torch.device) -> dict[str, str]:
    """The machine, build and threads, on which the bits of a result depend beside seed and data."""
    here = {
        "torch": torch.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_kind(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": str(torch.get_num_threads()),
        "device": device.type,
    }
    if device.type == "cuda":
        here["gpu"] = torch.cuda.get_device_name(device)
    return here


def not_exact(run: Path, step: int, here: Mapping[str, str]) -> str:
    """One line that says why resuming here is not bit-exact; "" when it is."""
    there = regular.read_json(files.current(folder(run, step)) / ENVIRONMENT)
    changed = [
        f"{key} was {there.get(key, 'absent')!r}, is {here.get(key, 'absent')!r}"
        for key in sorted(there.keys() | here.keys())
        if there.get(key) != here.get(key)
    ]
    return f"not bit-exact: {'; '.join(changed)}" if changed else ""


def digests(place: Path) -> dict[str, str]:
    """SHA-256 of each part of a checkpoint that two equal runs share, from the verified files."""
    hashes = manifest.verify(files.current(place))
    return {name: digest for name, digest in hashes.items() if name not in (CLOCK, ENVIRONMENT)}


def _named_step(place: Path) -> int:
    name = (place.parent if place.name.startswith(".") else place).name.removeprefix("step-")
    return int(name) if name.isascii() and name.isdigit() else -1


def _set_aside(place: Path) -> None:
    aside = place.with_name(place.name + _DAMAGED)
    with contextlib.suppress(FileNotFoundError):  # another process of the same training renamed it
        if aside.exists():
            files.remove_folder(aside, name="aside")
        place.rename(aside)


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    # Numbers are read back bit for bit: Python writes the shortest text that reads as the same float.
    files.write(path, (json.dumps(_packed(values), indent=1, ensure_ascii=False) + "\n").encode())


def _packed(value: Any) -> Any:
    """A value for JSON, which has no infinity and no NaN: a score of -inf is written as {"float": "-inf"}."""
    if isinstance(value, Mapping):
        return {key: _packed(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_packed(item) for item in value]
    return {"float": str(value)} if isinstance(value, float) and not math.isfinite(value) else value


def _unpacked(value: Any) -> Any:
    if isinstance(value, list):
        return [_unpacked(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"float"} and value["float"] in ("inf", "-inf", "nan"):
        return float(value["float"])
    return {key: _unpacked(item) for key, item in value.items()}


def _cpu_kind() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
