"""The training loop. session.py holds validation, saving and logging, step.py the update of the weights."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING

from regard import files
from regard.config import Config
from regard.errors import RegardError
from regard.training import checkpoint, previous, rundir
from regard.training.device import choose_device, prepare_torch
from regard.training.distributed import Group
from regard.training.finish import RunResult, finish
from regard.training.interrupt import interrupts
from regard.training.position import position_of
from regard.training.progress import Progress
from regard.training.session import OnEvent, Session
from regard.training.start import start_from

if TYPE_CHECKING:
    from regard.data.holdout import Split


def train(
    config: Config,
    run: Path | str,
    *,
    resume: bool = False,
    force: bool = False,
    device: str = "auto",
    on_event: OnEvent | None = None,
    hold_out: Split | None = None,
) -> RunResult:
    """Train as ``config`` says and leave a model directory in ``run``; ``resume`` continues the run that is there.

    ``on_event(kind, values)`` is called with every row of the metrics. Ctrl-C saves and returns a result whose
    ``stopped`` is "interrupted". ``hold_out`` is written to the run's ``corpus/`` first. ``force`` replaces an earlier
    run, which is kept until the first checkpoint and put back if this run ends before. Processes that ``torchrun``
    starts train one model together.
    """
    run, group = Path(run), Group.from_environment()
    place = choose_device(device, group)
    prepare_torch(config, place)
    start = start_from(config)
    with contextlib.ExitStack() as stack:
        stack.enter_context(group.joined(place))
        refusal: RegardError | None = None
        if group.first:
            try:
                stack.enter_context(rundir.opened(run, config, resume=resume, force=force, hold_out=hold_out))
            except RegardError as error:
                refusal = error
        # The others wait until the first process holds the directory, or fail with it.
        if group.from_first(int(refusal is not None), place):
            raise refusal or RegardError(f"{run}: the first process could not begin, and says why")
        interrupted = stack.enter_context(interrupts())
        progress = stack.enter_context(Progress(config.training, silent=not group.first))
        state = checkpoint.latest(run, progress.say, position_of, alone=group.first) if resume else None
        session = Session(config, run, place, group, progress, interrupted, start, state, on_event)
        stack.callback(session.close)
        if resume and group.first:
            rundir.write_config(run, config)  # a resumed run may name its corpora anew
        session.preflight()
        stopped = updates(session)
        # A run that is interrupted before its first checkpoint does not replace an earlier one.
        if session.saved < session.position.step and not (stopped == "interrupted" and previous.exists(run)):
            session.save()
        return finish(session, stopped)


def updates(session: Session) -> str:
    """Make updates until there is a reason to stop, and return that reason."""
    training, position, trainer = session.config.training, session.position, session.trainer
    items = session.feed.items(position.epoch, position.update)
    item = next(items).to(session.device)
    while True:
        # A resumed run starts here: a validation or checkpoint due at this step may still be missing.
        if session.due(training.validate_every) and position.validated < position.step:
            session.validate()
        if session.due(training.save_every) and session.saved < position.step:
            session.save()
        if reason := session.reason_to_stop():
            return reason

        start = time.perf_counter()
        step = position.step + 1
        running = trainer.start_update(item, step)
        # An accelerator is still computing: the next batch is made and copied meanwhile.
        following = next(items).to(session.device)
        statistics = trainer.read(running, step)
        session.account(item, statistics, time.perf_counter() - start)
        files.point("step")
        item = following


__all__ = ["RunResult", "train", "updates"]
