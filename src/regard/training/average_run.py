"""A model from several of a run's snapshots, after it or while it goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from regard import __version__, directory, files
from regard.config import read_config
from regard.data.prepare import prepare
from regard.errors import RegardError
from regard.models import registry
from regard.text.settings import TextSettings
from regard.text.tokenizer import Tokenizer
from regard.training import checkpoint, rundir, snapshots
from regard.training.average import average
from regard.training.finish import put
from regard.training.record import Record


def steps_of(run: Path, *, last: int = 0, best: int = 0) -> list[int]:
    """The steps of a run's last or best validations whose weights are still there."""
    if not (run / rundir.CONFIG).is_file():
        raise RegardError(f"{run}: not a run: it has no {rundir.CONFIG}")
    there = checkpoint.steps(run)
    if not there:
        raise RegardError(f"{run}: nothing to average: it has saved no checkpoint yet")
    record = Record.read(checkpoint.load(checkpoint.folder(run, there[-1])).record)
    scores = [entry for entry in record.scores if snapshots.folder(run, entry[0]).is_dir()]
    chosen = snapshots.last(scores, last) if last else sorted(snapshots.best(scores, best))
    if len(chosen) < (last or best):
        kept = ", ".join(str(step) for step, _ in scores) or "none"
        raise RegardError(f"{run}: {last or best} snapshots were asked for, there are {len(scores)} (updates {kept})")
    return chosen


def average_run(run: Path, out: Path, steps: list[int]) -> None:
    """Write the mean of these steps' weights as a model directory."""
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise RegardError(f"{out}: is there already; choose another folder")
    options, settings, tokenizer, target = _surroundings(run)
    weights = average(snapshots.read_snapshot(run, step) for step in steps)
    listed = ", ".join(f"{step:,}" for step in steps)
    card = (
        f"# {settings.source} → {settings.target}\n\n"
        f"The average of the weights of `{run}` after the updates {listed}, written by regard {__version__}:\n"
        f"its data and training are described in `{run / directory.CARD}`. Not measured yet: `regard evaluate`.\n"
    )
    model = options.build(tokenizer.size, None if target is tokenizer else target.size)
    put(model, weights)
    directory.save(out, model, options, settings, tokenizer, target, card)


def _surroundings(run: Path) -> tuple[Any, TextSettings, Tokenizer, Tokenizer]:
    """What stands around the weights: from the model that the run has chosen, or from its data where it goes on."""
    model = files.current(run)
    if (model / directory.CONFIG).exists():
        settings = TextSettings.read(model / directory.TEXT)
        tokenizer = Tokenizer.read(model / directory.TOKENIZER, settings.normalize)
        own = model / directory.TARGET_TOKENIZER
        target = Tokenizer.read(own, settings.normalize) if own.exists() else tokenizer
        return directory.read_options(model / directory.CONFIG), settings, tokenizer, target
    config = read_config(run / rundir.CONFIG)
    if config.training.init:
        raise RegardError(f"{run}: the run is still going on from {config.training.init}; average it when it has ended")
    prepared = prepare(config, run / rundir.DATA)
    return registry.options_from(config.model), prepared.settings, prepared.tokenizer, prepared.target_tokenizer
