"""``regard train``: from a configuration, from a corpus alone, or resuming a run."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from regard.cli.common import Device, Json, print_json, show, talk
from regard.cli.flags import add_once, with_config_flags
from regard.cli.plan import Plan, plan_run
from regard.config import Config, to_toml
from regard.errors import RegardError

if TYPE_CHECKING:
    from regard.data.holdout import Split


@with_config_flags
def train(
    given: dict[str, Any],
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="CONFIG.toml | A.zh A.en | A.tsv | A.txt | RUN", help="What to train, or to resume."),
    ] = None,
    run: Annotated[str, typer.Option("--run", "-o", help="Run directory; default runs/NAME or runs/zh-en.")] = "",
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any key, such as model.positions=rotary.")
    ] = None,
    architecture: Annotated[str, typer.Option(help="transformer, rnn, decoder, encoder, … (model.architecture).")] = "",
    preset: Annotated[str, typer.Option(help="base, big, small or tiny (model.preset).")] = "",
    bf16: Annotated[bool, typer.Option("--bf16", help="The same as --precision bf16.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Resume the run where it stopped.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an earlier run, once the new one has a checkpoint.")
    ] = False,
    print_config: Annotated[bool, typer.Option("--print-config", help="Print the configuration and stop.")] = False,
    prove_resume: Annotated[
        bool,
        typer.Option(
            "--prove-resume", help="Train twice as real processes, kill one at three points, compare every bit."
        ),
    ] = False,
    device: Device = "auto",
    json: Json = False,
) -> int | None:
    """Train a model: a translator, a language model, a masked model, a classifier.

    Two text files whose endings are their languages, or a table whose columns name them, train a translator: 1 % of
    the pairs (at most 1,000) are held out for validation. A table with texts and labels trains a classifier: a tenth
    (at most 1,000) is held out. A plain text trains a language model, or with --task masked an
    encoder of masked words: the last tenth is held out. --task says what else a corpus is for.

    Size and vocabulary are chosen by the corpus, or are those of a model to start from (--init): a run, or a folder of
    save_pretrained. The run is written to runs/SOURCE-TARGET or runs/NAME. Every option below is a key of the
    configuration; --set reaches the others. Ctrl-C saves, and prints how to resume.

    Examples: regard train train.zh train.en --minutes 30; regard train plays.txt; regard train reviews.tsv --init bert
    """
    precision = "bf16" if bf16 else ""
    short = {"training.precision": precision, "model.architecture": architecture, "model.preset": preset}
    add_once(given, short, set_ or [])
    plan = plan_run(files or [], run, resume, given, set_ or [], ending="-proof" if prove_resume else "")
    if print_config:
        for line in to_toml(_with_model_defaults(plan.config)).splitlines():
            show(line)
        return None
    from regard.training import rundir
    from regard.training.distributed import Group

    _check_model(plan.config)
    if prove_resume and plan.run.exists():
        raise RegardError(f"{plan.run}: is there already; a proof needs a new folder (-o)")
    if not (resume or force):
        rundir.refuse_occupied(plan.run)
    if plan.split is not None and Group.from_environment().first:
        _say_choices(plan.config, plan.split, plan.run)
    if prove_resume:
        return _prove(plan, device, json)
    return _train(plan, device, resume, force, json)


def _with_model_defaults(config: Config) -> Config:
    """The configuration with every option of a new model that has a value; a wrong one raises."""
    from regard.models import registry

    _check_model(config)
    if config.training.init:
        return config
    defaults = registry.to_dict(registry.options_from(config.model))
    return replace(config, model={**config.model, **defaults, **config.model})  # first, and as it is, what was given


def _check_model(config: Config) -> None:
    """Raise for a wrong option of the model, or one that does not fit the task, before anything is written."""
    from regard import tasks
    from regard.models import registry

    if config.training.init:
        return  # that model's options say what [model] may change: training compares them before it writes anything
    tasks.check(config)
    vocabulary = config.data.vocabulary
    try:
        options = tasks.task_named(config.task).options(registry.options_from(config.model), ("yes", "no"))
        registry.parameter_count(options, vocabulary, None if config.data.joint else vocabulary)
    except (ValueError, TypeError) as error:
        raise RegardError(f"model: {error}") from None


def _say_choices(config: Config, split: Split, run: Path) -> None:
    from regard.data.examples import remarks
    from regard.tasks import metric_of, task_named

    data, task = config.data, config.task
    entry = split.files[0] if len(split.files) == 1 else (split.files[0], split.files[1])
    for line in remarks(entry, data, task_named(task).columns(data)):
        talk(line)
    init = config.training.init
    kind = "" if init else f" ({data.tokenizer})"
    what = f"{data.source} → {data.target}" if task == "translation" else f"{task}{kind}"
    talk(f"{what}: {split.described()}")
    subwords = f"the subwords of {init}" if init else f"at most {data.vocabulary:,} subwords"
    talk(f"{subwords}; everything is written to {run}")
    if config.training.minutes:
        metric = metric_of(config)
        measure = "BLEU" if metric == "bleu" else f"the {metric.replace('_', ' ')}"
        talk(
            f"at most {config.training.minutes:g} minutes (--minutes), less if {measure} on the held-out "
            f"{'pairs' if task == 'translation' else 'text'} stops {'falling' if measure == 'the loss' else 'rising'}"
        )


def _train(plan: Plan, device: str, resume: bool, force: bool, json: bool) -> int:
    from regard.tasks import task_named
    from regard.training.distributed import Group
    from regard.training.loop import train as run_training

    result = run_training(
        plan.config, plan.run, resume=resume, force=force, device=device, hold_out=None if resume else plan.split
    )
    if not Group.from_environment().first:
        pass  # the first process prints for all
    elif json:
        scores = (*task_named(plan.config.task).figures, "bleu_signature")
        print_json(
            {
                **{key: getattr(result, key) for key in ("step", "stopped", "chosen", "skipped", "seconds")},
                "run": str(result.run),
                **{key: result.scores[key] for key in scores if key in result.scores},
            }
        )
    elif result.stopped != "interrupted":
        show(str(result.run))
    return 130 if result.stopped == "interrupted" else 0


def _prove(plan: Plan, device: str, json: bool) -> int:
    """Prove and return the exit code: 1 if the two runs differ. A proof that holds leaves no files."""
    from regard.training.prove import prove_resume

    try:
        if plan.split is not None:
            plan.split.write(plan.run / "corpus")
        proof = prove_resume(plan.config, plan.run / "proof", device=device, say=talk)
    except BaseException:
        shutil.rmtree(plan.run, ignore_errors=True)  # did not exist before
        raise
    if json:
        parts = [{"name": part.name, "same": part.same, "sha256": part.uninterrupted} for part in proof.parts]
        print_json({"holds": proof.holds, "steps": proof.steps, "parts": parts})
    else:
        print("\n".join(proof.lines()))
    if proof.holds:
        shutil.rmtree(plan.run)
    return 0 if proof.holds else 1
