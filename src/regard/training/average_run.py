"""``regard average``: a model from the mean weights of several validated steps of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from regard import directory, files
from regard.data.prepare import prepare
from regard.errors import RegardError
from regard.tasks import metric_of, task_named
from regard.tasks.measuring import score_of
from regard.training import snapshots
from regard.training.average import average
from regard.training.metrics import METRICS, read_rows
from regard.training.rundir import CONFIG, DATA, read_file
from regard.training.start import model_parts, prepare_options, start_from


def steps_of(run: Path, *, last: int = 0, best: int = 0) -> list[int]:
    """The steps of the ``last`` or ``best`` so many validations, ascending; an error if weights are missing."""
    config = read_file(_file(run, CONFIG))
    rows = read_rows(_file(run, METRICS), "validation")
    metric = metric_of(config)
    for row in rows:
        if not isinstance(row.get(metric), int | float):
            raise RegardError(f"{run / METRICS}: the validation of update {row['step']} has no '{metric}'")
    scores = [(row["step"], score_of(metric, row)) for row in rows]
    wanted = snapshots.best(scores, best) if best else snapshots.last(scores, last)
    steps = sorted(step for step in wanted if snapshots.folder(run, step).is_dir())
    if len(steps) < (best or last):
        kept = [step for step, _ in scores if snapshots.folder(run, step).is_dir()]
        raise RegardError(
            f"{run}: has the weights of {len(steps)} of the {'best' if best else 'last'} {best or last} validations; "
            f"kept are those of updates {', '.join(map(str, kept)) or '(none)'} (training.average, training.keep)"
        )
    return steps


def average_run(run: Path, out: Path, steps: Sequence[int]) -> Path:
    """Write the mean weights of these steps as a model directory."""
    if out.exists():
        raise RegardError(f"{out}: is there already; choose another place")
    weights = average(snapshots.read_snapshot(run, step) for step in steps)
    listed = ", ".join(map(str, steps))
    note = f"# Average of a run\n\nThe mean of the weights of {run} after the updates {listed}.\n"
    if (files.current(run) / directory.CONFIG).exists():
        model = directory.load(run)
        options, settings, sizes = model.options, model.settings, model.vocabulary
        tokenizers, task = (model.tokenizer, model.target_tokenizer), model.task
        note += f"\nThe card of that run follows; its figures are not this model's.\n\n{model.card}"
    else:
        config = read_file(_file(run, CONFIG))
        start, task = start_from(config), config.task
        columns = task_named(task).columns(config.data)
        prepared = prepare(config, run / DATA, columns, **prepare_options(task_named(task), start))
        options, settings, sizes = model_parts(config, task_named(task), prepared, start)
        tokenizers = prepared.tokenizer, prepared.target_tokenizer
    built = options.build(*sizes)
    snapshots.put(built, weights)
    return directory.save(out, built, options, settings, *tokenizers, note, task=task, vocabulary=sizes)


def _file(run: Path, name: str) -> Path:
    if not (run / name).is_file():
        raise RegardError(f"{run}: is no run: it has no {name}")
    return run / name
