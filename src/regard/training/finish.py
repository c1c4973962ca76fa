"""The end of a run: the weights to keep are chosen on the validation corpus, with the search that users get."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from torch import Tensor

from regard import directory
from regard.errors import RegardError
from regard.tasks.measuring import Abandoned, in_words
from regard.training import previous, snapshots
from regard.training.average import average
from regard.training.card import model_card

if TYPE_CHECKING:
    from regard.training.session import Session


@dataclass(frozen=True)
class RunResult:
    """The result of a run."""

    run: Path
    step: int
    stopped: str  # "steps", "minutes", "patience" or "interrupted"
    chosen: str = ""  # the kept weights, in words; "" when the run was interrupted
    scores: Mapping[str, Any] = field(default_factory=dict)  # of the chosen weights on the validation corpus
    skipped: int = 0  # updates without a finite loss or gradient
    seconds: float = 0.0


def finish(session: Session, stopped: str) -> RunResult:
    """Validate once more, choose the weights, and write the model with its card, unless the run was interrupted."""
    position = session.position
    if stopped != "interrupted" and position.validated < position.step:
        session.validate()
        session.save()
    chosen = ""
    scores: dict[str, Any] = {}
    if stopped != "interrupted" and session.group.first and not session.interrupted():
        try:
            chosen, scores = _choose(session, stopped)
        except Abandoned:
            chosen = ""
    if not chosen and session.group.first:
        stopped = "interrupted"
        session.progress.say(_advice(session))
    return RunResult(session.run, position.step, stopped, chosen, scores, position.skipped, session.pace.elapsed())


def _advice(session: Session) -> str:
    """The last line of an interrupted run: how to resume it, or that the earlier run is put back."""
    if previous.exists(session.run):
        return f"stopped before the first checkpoint; the run that was in {session.run} is put back"
    return (
        f"stopped after update {session.position.step:,}; go on with: regard train --resume {quote(str(session.run))}"
    )


def candidates(scores: list[tuple[int, float]], count: int) -> dict[str, list[int]]:
    """The candidates to keep: name in words → the steps whose weights are averaged; each set of steps once.

    >>> candidates([(10, 1.0), (20, 3.0), (30, 2.0)], 2)
    {'update 20, the best': [20], 'average of the last 2': [20, 30], 'average of the best 2': [20, 30]}
    """
    found = {f"update {step:,}, the best": [step] for step in snapshots.best(scores, 1)}
    count = min(count, len(scores))
    if count > 1:
        found[f"average of the last {count}"] = snapshots.last(scores, count)
        found[f"average of the best {count}"] = sorted(snapshots.best(scores, count))
    unique: dict[tuple[int, ...], str] = {}
    for name, steps in found.items():
        unique.setdefault(tuple(steps), name)
    return {name: list(steps) for steps, name in unique.items()}


def _choose(session: Session, stopped: str) -> tuple[str, dict[str, Any]]:
    """Measure every candidate with the configuration's search, and write the best as the run's model."""
    decoding = session.config.decoding
    measured: dict[str, dict[str, Any]] = {}
    weights: dict[str, dict[str, Tensor]] = {}
    fault = ""
    for name, steps in candidates(session.position.scores, session.config.training.average).items():
        session.progress.doing(f"measuring {name}")
        try:
            weights[name] = average(snapshots.read_snapshot(session.run, step) for step in steps)
            snapshots.put(session.model, weights[name])
        except (RegardError, RuntimeError) as error:  # RuntimeError: names or shapes are not the model's
            fault = f"{name} cannot be used: {' '.join(str(error).split())[:200]}"
            session.progress.say(fault)
            continue
        measured[name] = values = session.validation.measure(decoding)
        session.write("choice", {"name": name, "steps": steps, **{k: v for k, v in values.items() if k != "samples"}})
        session.progress.say(f"{name}: {in_words(session.task.figures, values)}")
    if not measured:
        raise RegardError(f"{session.run}: none of the validated weights can be used; {fault}")
    chosen = max(measured, key=lambda name: session.score(measured[name]))
    snapshots.put(session.model, weights[chosen])
    loaded = session.loaded
    directory.save(
        session.run,
        session.model,
        session.options,
        loaded.settings,
        loaded.tokenizer,
        loaded.target_tokenizer,
        model_card(session, chosen, measured, stopped),
        task=loaded.task,
        vocabulary=loaded.vocabulary,
    )
    if session.metrics is not None:
        session.metrics.sync()
    command = session.task.card(session.config, session.loaded).command.format(run=quote(str(session.run)))
    session.progress.say(f"kept: {chosen}; try it: {command}")
    return chosen, measured[chosen]
