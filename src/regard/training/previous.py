"""An earlier run, set aside while the one that replaces it has no checkpoint yet: ``RUN/.previous/``.

A run that starts anew in the place of another may still fail: too little memory, a text that cannot be read, Ctrl-C.
Until its first checkpoint everything of the earlier run stands in ``.previous``, from where it comes back. Both ways
go through ``.previous.moving``, so that a kill at any moment leaves a state that ``settle`` understands:

- ``.previous.moving``: entries are under way; those that are still in the run directory belong to the earlier run.
- ``.previous``: all entries are in it; what stands in the run directory under their names is the new run's.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from regard import files

FOLDER, MOVING = files.PREVIOUS, f"{files.PREVIOUS}.moving"
NAMES = "replaced.json"  # the names that the new run takes over, whether the earlier one has them or not


def exists(run: Path) -> bool:
    """Whether an earlier run is set aside, wholly or by half."""
    return (run / FOLDER).is_dir() or (run / MOVING).is_dir()


def set_aside(run: Path, names: Sequence[str]) -> None:
    """Move the entries of these names out of the way of a new run. Points: ``aside:moved``, ``aside:done``."""
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


def bring_back(run: Path) -> None:
    """Put the earlier run in the place of the new one. Points: ``back:cleared``, ``back:moved``."""
    with files.writing(run):
        if (run / FOLDER).is_dir():
            remove(run, files.read_json(run / FOLDER / NAMES)["names"])
            files.point("back:cleared")
            os.rename(run / FOLDER, run / MOVING)
        _move_back(run)


def settle(run: Path, *, replaced: bool) -> None:
    """Finish what a killed process has begun; ``replaced``: the new run has a checkpoint, and the earlier one goes."""
    if (run / MOVING).is_dir():
        with files.writing(run):
            _move_back(run)
    elif (run / FOLDER).is_dir():
        forget(run) if replaced else bring_back(run)


def forget(run: Path) -> None:
    """Delete the earlier run."""
    if (run / FOLDER).is_dir():
        files.remove_folder(run / FOLDER, name="forget")


def remove(run: Path, names: Sequence[str]) -> None:
    """Delete what a run has written under these names."""
    for name in names:
        files.discard(run / name)


def _move_back(run: Path) -> None:
    moving = run / MOVING
    for path in sorted(moving.iterdir()):
        if path.name != NAMES:
            os.rename(path, run / path.name)
            files.point("back:moved")
    files.sync(run)
    files.discard(moving)
