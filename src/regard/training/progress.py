"""Progress of a run on standard error: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bar

from regard.config import TrainingConfig
from regard.terminal import printable

_BETWEEN = 0.5  # seconds between updates of the live line


@dataclass
class Pace:
    """Speed and time left of a run. Rates count training time only, the time left counts everything."""

    matrix_rate: float = 0.0  # operations a second; 0: not measured
    before: float = 0.0  # seconds that earlier processes of this run have taken
    started: float = 0.0
    first_step: int = 0
    seconds: float = 0.0  # of updates since the last line of the log
    target_tokens: int = 0
    work: float = 0.0

    def start(self, step: int) -> None:
        self.started, self.first_step = time.monotonic(), step

    def elapsed(self) -> float:
        """Seconds of the whole run, validation and saving included, killed processes up to their last checkpoint."""
        return self.before + time.monotonic() - self.started

    def add(self, seconds: float, target_tokens: int, work: float) -> None:
        self.seconds += seconds
        self.target_tokens += target_tokens
        self.work += work

    def rate(self) -> float:
        """Target tokens a second, validation and saving excluded."""
        return self.target_tokens / self.seconds if self.seconds else 0.0

    def share(self) -> float:
        """Share of the matrix rate reached; 0 if that was not measured."""
        return self.work / self.seconds / self.matrix_rate if self.seconds and self.matrix_rate else 0.0

    def left(self, step: int, training: TrainingConfig) -> float:
        """Seconds until steps or minutes are used up; infinite before the first update."""
        done = step - self.first_step
        by_steps = (self.elapsed() - self.before) / done * (training.steps - step) if done else math.inf
        by_clock = training.minutes * 60 - self.elapsed() if training.minutes else math.inf
        return max(0.0, min(by_steps, by_clock))

    def restart(self) -> None:
        """Reset the sums for the next line of the log."""
        self.seconds, self.target_tokens, self.work = 0.0, 0, 0.0


class Progress:
    """Prints the progress of a run."""

    def __init__(self, training: TrainingConfig, *, silent: bool = False, console: Console | None = None) -> None:
        self.training, self.silent = training, silent
        self.console = console or Console(stderr=True, highlight=False)
        self.live = self.console.is_terminal and not silent
        self._bar: Bar | None = None
        self._task = TaskID(0)
        self._drawn = 0.0

    def __enter__(self) -> Progress:
        if self.live:
            # The loop draws it: a drawing thread would take time from the computation.
            self._bar = Bar(
                BarColumn(bar_width=20),
                TextColumn("{task.description}"),
                console=self.console,
                auto_refresh=False,
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task("starting", total=1.0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def say(self, text: str) -> None:
        """Print one or more permanent lines."""
        if not self.silent:
            self.console.print(printable(text, keep="\n"), markup=False, soft_wrap=True)

    def doing(self, what: str) -> None:
        """Show on the live line what is being done."""
        if self._bar is not None:
            self._bar.update(self._task, description=what, refresh=True)

    def updated(self, step: int, loss: float, pace: Pace, epoch: int) -> None:
        """Redraw the live line after an update, at most every ``_BETWEEN`` seconds."""
        now = time.monotonic()
        if self._bar is None or now - self._drawn < _BETWEEN:
            return
        self._drawn = now
        done = step / self.training.steps
        if self.training.minutes:
            done = max(done, pace.elapsed() / (60 * self.training.minutes))
        line = describe(step, epoch, loss, pace, self.training)
        self._bar.update(self._task, completed=min(done, 1.0), description=line, refresh=True)

    def logged(self, step: int, loss: float, pace: Pace, epoch: int) -> None:
        """Print a line of the log, unless there is a live line."""
        if self._bar is None:
            self.say(describe(step, epoch, loss, pace, self.training))

    def validated(self, figures: str, samples: Iterable[Mapping[str, str]], step: int, best: bool) -> None:
        """Print the measures of a validation, as one line, and its samples."""
        self.say(f"step {step:,} · {figures}" + (" · the best so far" if best else ""))
        for sample in samples:
            lines = [f"    {printable(sample['source'])}", f"      → {printable(sample['hypothesis'])}"]
            if "reference" in sample:
                lines.append(f"      = {printable(sample['reference'])}")
            self.say("\n".join(lines))


def describe(step: int, epoch: int, loss: float, pace: Pace, training: TrainingConfig) -> str:
    """One line of the log.

    >>> describe(500, 2, 4.25, Pace(), TrainingConfig(steps=1000))
    'step 500/1,000 · epoch 3 · loss 4.250'
    """
    parts = [f"step {step:,}/{training.steps:,}", f"epoch {epoch + 1}", f"loss {loss:.3f}"]
    if pace.seconds:
        parts.append(f"{pace.rate():,.0f} tokens/s")
        if share := pace.share():
            parts.append(f"{share:.0%} of the matrix rate")
        if math.isfinite(left := pace.left(step, training)):
            parts.append(f"{duration(left)} left")
    return " · ".join(parts)


def duration(seconds: float) -> str:
    """Seconds in words.

    >>> duration(5), duration(65), duration(3 * 3600 + 120)
    ('5 s', '1 min 05 s', '3 h 02 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"
