"""The logs of a run: ``metrics.jsonl`` (no clock times), ``timing.jsonl`` and TensorBoard."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regard.errors import RegardError
from regard.files import writing
from regard.regular import open_regular, read_regular

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

METRICS, TIMING, TENSORBOARD = "metrics.jsonl", "timing.jsonl", "tensorboard"


class Metrics:
    """Writes the logs of a run.

    ``metrics.jsonl`` holds computed numbers only, so that two runs can be compared byte by byte; a resumed run cuts the
    file back to its checkpoint and writes the same bytes again. ``timing.jsonl`` holds what a clock measured.
    """

    def __init__(self, run: Path, *, keep: int = 0, step: int = 0) -> None:
        """Open the files of ``run``; its checkpoint of ``step`` was made when the metrics had ``keep`` bytes."""
        self.folder = run
        path = run / METRICS
        for there in (path, run / TIMING):
            if os.path.lexists(there):  # never truncate through a link out of the run, never wait for a FIFO
                open_regular(there, run).close()
        size = path.stat().st_size if path.exists() else 0
        if size < keep:
            raise RegardError(f"{path}: {size} bytes, but the checkpoint was made when it had {keep}; restore the file")
        with writing(path):
            self._metrics = open(path, "r+b" if path.exists() else "w+b")  # noqa: SIM115 - closed by ``close``
            self._metrics.truncate(keep)
            self._metrics.seek(keep)
            self._timing = open(run / TIMING, "ab")  # noqa: SIM115
            if self._timing.tell():
                self._timing.truncate(_whole(run / TIMING))  # a killed process may have left a partial row
        self._first = step + 1
        self._board: SummaryWriter | None = None

    def write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Write one row of computed numbers, which are read back bit for bit."""
        row = json.dumps({"kind": kind, "step": step, **values}, ensure_ascii=False)
        with writing(self.folder / METRICS):
            self._metrics.write(row.encode() + b"\n")
            self._metrics.flush()  # for readers that follow the file; ``sync`` puts it on the disk
        self._plot(kind, step, values)

    def time(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Write one row of times."""
        with writing(self.folder / TIMING):
            self._timing.write(json.dumps({"kind": kind, "step": step, **values}).encode() + b"\n")
            self._timing.flush()
        self._plot(kind, step, values)

    def sync(self) -> int:
        """Put every row on the disk, before a checkpoint counts on them; returns the bytes of ``metrics.jsonl``."""
        with writing(self.folder / METRICS):
            self._metrics.flush()
            os.fsync(self._metrics.fileno())
        return self._metrics.tell()

    def close(self) -> None:
        """Close all files; rows that a full disk cannot take are an error with the file's name."""
        with contextlib.ExitStack() as stack:
            for name, file in ((METRICS, self._metrics), (TIMING, self._timing), (TENSORBOARD, self._board)):
                if file is not None:
                    stack.enter_context(writing(self.folder / name))
                    stack.callback(file.close)

    def _plot(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        with writing(self.folder / TENSORBOARD):
            self._draw(kind, step, values)

    def _draw(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        if self._board is None:
            from torch.utils.tensorboard import SummaryWriter  # takes a second to import

            _quieten_tensorboard()
            # Steps that a resumed run repeats replace the killed process's points.
            self._board = SummaryWriter(str(self.folder / TENSORBOARD), purge_step=self._first)
        for name, value in values.items():
            if isinstance(value, int | float):
                self._board.add_scalar(f"{kind}/{name}", value, step)
        for number, sample in enumerate(values.get("samples", ())):
            lines = [f"    {side}: {sample[side]}" for side in ("source", "reference", "hypothesis") if side in sample]
            self._board.add_text(f"{kind}/sample {number + 1}", "\n".join(lines), step)


@functools.cache
def _quieten_tensorboard() -> None:
    """Print no traceback of TensorBoard's writer thread: the next row, or ``close``, raises its error (a full disk).

    The hook is set once a process, because the thread may outlive its run.
    """
    usual = threading.excepthook

    def hook(arguments: Any) -> None:
        ours = isinstance(arguments.exc_value, OSError) and type(arguments.thread).__module__.startswith("tensorboard.")
        if not ours:
            usual(arguments)

    threading.excepthook = hook


def _whole(path: Path) -> int:
    """The size of a file up to the end of its last complete line."""
    return read_regular(path, path.parent, None).rfind(b"\n") + 1


def read_rows(path: Path, kind: str = "") -> list[dict[str, Any]]:
    """The rows of a metrics or timing file, of one ``kind`` if given; an incomplete last line is left out."""
    rows = []
    for number, line in enumerate(read_regular(path, path.parent, None).split(b"\n")[:-1], 1):
        try:
            row = json.loads(line)
            found = row["kind"], row["step"]
        except (ValueError, KeyError, TypeError, RecursionError):
            found = None, None
        if not isinstance(found[0], str) or type(found[1]) is not int:
            raise RegardError(f"{path}:{number}: damaged: expected a JSON table with 'kind' and 'step'")
        if not kind or found[0] == kind:
            rows.append(row)
    return rows
