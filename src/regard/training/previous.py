"""An earlier run, set aside in ``RUN/.previous/`` until the run that replaces it has a checkpoint.

A new run may fail early: too little memory, an unreadable text, Ctrl-C. Then the earlier run is put back. Both moves go
through ``.previous.moving``, so that a kill at any moment leaves a state that ``settle`` understands:

- ``.previous.moving``: entries are being moved; those still in the run directory belong to the earlier run.
- ``.previous``: it has all entries; entries of the same names in the run directory belong to the new run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from regard import files, regular
from regard.errors import RegardError

FOLDER, MOVING = files.PREVIOUS, files.MOVING
NAMES = "replaced.json"  # the names that the new run replaces, whether the earlier one has them or not


def exists(run: Path) -> bool:
    """Whether an earlier run is set aside, completely or in part."""
    return _is_folder(run / FOLDER) or _is_folder(run / MOVING)


def set_aside(run: Path, names: Sequence[str]) -> None:
    """Move the entries of these names into ``.previous``. Points: ``aside:moved``, ``aside:done``."""
    present = [name for name in names if (run / name).exists()]
    if not present:
        return
    moving = run / MOVING
    with files.writing(moving):
        moving.mkdir()
        files.write(moving / NAMES, json.dumps({"names": [*names]}).encode())
        for name in present:
            os.rename(run / name, moving / name)
            files.point("aside:moved")
        os.rename(moving, run / FOLDER)
        files.sync(run)
    files.point("aside:done")


def settle(run: Path, *, has_checkpoint: bool, known: Sequence[str]) -> None:
    """Keep one run: the new one if it has a checkpoint, else the earlier one.

    Only entries of ``known`` names are touched: the directory may come from a stranger. Nothing happens where no
    earlier run is set aside. Points: ``back:cleared``, ``back:moved``.
    """
    with files.writing(run):
        if _is_folder(run / MOVING):
            _move_back(run, known)
        elif _is_folder(run / FOLDER) and has_checkpoint:
            forget(run)
        elif _is_folder(run / FOLDER):
            names = regular.read_json(run / FOLDER / NAMES).get("names")
            if not isinstance(names, list):
                raise RegardError(f"{run / FOLDER / NAMES}: damaged: expected 'names', a list")
            remove(run, [name for name in known if name in names])
            files.point("back:cleared")
            os.rename(run / FOLDER, run / MOVING)
            _move_back(run, known)


def forget(run: Path) -> None:
    """Delete the earlier run."""
    if _is_folder(run / FOLDER):
        files.remove_folder(run / FOLDER, name="forget")


def remove(run: Path, names: Sequence[str]) -> None:
    """Delete a run's entries of these names."""
    for name in names:
        files.discard(run / name)


def _move_back(run: Path, known: Sequence[str]) -> None:
    moving = run / MOVING
    for path in sorted(moving.iterdir()):
        if path.name in known:
            os.rename(path, run / path.name)
            files.point("back:moved")
    files.sync(run)
    files.discard(moving)


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()
