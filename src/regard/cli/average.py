"""``regard average``: one model from several checkpoints of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from regard import limits
from regard.cli.common import Json, print_json, show, talk


def average(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory, finished or not.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Model directory to write.")],
    last: Annotated[
        int, typer.Option(min=1, max=limits.ANY_NUMBER, help="The last so many validated checkpoints.")
    ] = 5,
    best: Annotated[int, typer.Option(min=0, max=limits.ANY_NUMBER, help="The best so many instead.")] = 0,
    json: Json = False,
) -> None:
    """Average the weights of a run's validated checkpoints into a model directory.

    Training averages by itself at its end and keeps the best weights on the validation corpus; this verb is for other
    counts, or for a run that is not finished. training.keep and training.average set how many checkpoints a run keeps.

    Example: regard average runs/zh-en runs/zh-en-average --last 5
    """
    from regard.outputs import check_output_folder
    from regard.training.average_run import average_run, steps_of

    check_output_folder(out)
    steps = steps_of(run, best=best) if best else steps_of(run, last=last)
    average_run(run, out, steps)
    talk(f"averaged the weights after the updates {', '.join(f'{step:,}' for step in steps)}")
    if json:
        print_json({"run": str(run), "model": str(out), "steps": steps})
    else:
        show(str(out))
