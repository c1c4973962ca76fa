"""``regard train``: from a configuration, from two text files or a table, or resuming a run."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from regard.cli.common import Device, Json, print_json, show, talk
from regard.cli.flags import add_once, with_config_flags
from regard.config import Config, read_config, to_toml
from regard.errors import RegardError

if TYPE_CHECKING:
    from regard.data.holdout import Split


class Plan(NamedTuple):
    """The training that the arguments mean."""

    config: Config
    run: Path
    split: Split | None = None  # the division of a corpus of pairs, not written yet


@with_config_flags
def train(
    given: dict[str, Any],
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="CONFIG.toml | A.zh A.en | A.tsv | RUN", help="What to train, or to resume."),
    ] = None,
    run: Annotated[str, typer.Option("--run", "-o", help="Run directory; default runs/NAME or runs/zh-en.")] = "",
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any key, such as model.positions=rotary.")
    ] = None,
    architecture: Annotated[str, typer.Option(help="transformer, rnn, … (model.architecture).")] = "",
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
    """Train a translator.

    From two text files whose endings are their languages, or a table whose columns name them: 1 % of the pairs (at
    most 1,000) are held out for validation, size and vocabulary are chosen by the corpus, and the run is written to
    runs/SOURCE-TARGET. Every option below is a key of the configuration; --set reaches the others. Ctrl-C saves, and
    prints how to resume.

    Example: regard train train.zh train.en --minutes 30
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


def plan_run(
    files: list[str], run: str, resume: bool, given: Mapping[str, Any], overrides: list[str], ending: str = ""
) -> Plan:
    """The plan that the arguments mean; ``ending`` is added to a default name of the run."""
    from regard.data.corpus import is_one_file

    tables = _tables(given)
    if len(files) == 2 or (len(files) == 1 and is_one_file(files[0])):
        if resume:
            return _resumed(Path(run or _default_run(files, tables)), tables, overrides)
        return _from_corpus(files, run or _default_run(files, tables) + ending, tables, overrides)
    if len(files) != 1:
        raise RegardError("expected CONFIG.toml, two text files, one of pairs (.tsv, .csv, .jsonl), or --resume RUN")
    path = Path(files[0])
    if resume:
        folder = Path(run) if run else path
        if not run and path.suffix == ".toml":
            folder = Path("runs") / path.stem
        return _resumed(folder, tables, overrides)
    if path.is_dir():
        raise RegardError(f"{path}: is a folder; to go on with a run: regard train --resume {quote(str(path))}")
    if path.suffix != ".toml" and path.exists():
        raise RegardError(
            f"{path}: expected a configuration (.toml), pairs (.tsv, .csv, .jsonl), or the other language's file "
            "beside it"
        )
    from regard.training.rundir import read_file

    return Plan(read_file(path, overrides, **tables), Path(run or f"runs/{path.stem}{ending}"))


def _tables(given: Mapping[str, Any]) -> dict[str, Any]:
    """{"training.steps": 5, "seed": 2} → {"training": {"steps": 5}, "seed": 2}"""
    tables: dict[str, Any] = {}
    for key, value in given.items():
        table, dot, name = key.partition(".")
        if dot:
            tables.setdefault(table, {})[name] = value
        else:
            tables[key] = value
    return tables


def _languages(files: list[str], tables: Mapping[str, Any]) -> tuple[str, str]:
    """Source and target language: typed, or by the files' endings or one file's columns."""
    from regard.data.corpus import languages_in
    from regard.data.holdout import languages_of

    given = tables.get("data", {})
    if given.get("source") and given.get("target"):
        source, target = given["source"], given["target"]
    else:
        source, target = languages_of(files) if len(files) == 2 else languages_in(files[0])
        if len(files) == 1 and (given.get("source") == target or given.get("target") == source):
            source, target = target, source  # columns may stand in any order
        source, target = given.get("source", source), given.get("target", target)
    if not source or not target:
        raise RegardError(
            f"{' '.join(files)}: the {'endings' if len(files) == 2 else 'columns'} name no languages; say "
            "--source-language and --target-language"
        )
    if source == target:
        raise RegardError(
            f"{' '.join(files)}: both are '{source}'; name files as in train.zh train.en, or say --source-language and "
            "--target-language"
        )
    return source, target


def _default_run(files: list[str], tables: Mapping[str, Any]) -> str:
    return "runs/" + "-".join(_languages(files, tables))


def _from_corpus(files: list[str], run: str, tables: dict[str, Any], overrides: list[str]) -> Plan:
    """The plan for two files or a table: held-out validation pairs, and a recipe under the typed keys."""
    from regard.data.holdout import survey
    from regard.training.recipe import MINUTES, recipe

    source, target = _languages(files, tables)
    folder = Path(run)
    entry = files[0] if len(files) == 1 else (files[0], files[1])
    data = {"valid": entry, **tables.get("data", {}), "source": source, "target": target, "train": [entry]}
    # Check the typed keys before a large corpus is read.
    typed = read_config(None, overrides, **{**tables, "data": data})
    seen = survey(entry, typed.data)
    split = seen.hold_out() if typed.data.valid == entry else None
    if split is not None:
        data["train"], data["valid"] = [str(folder / "corpus" / "train")], str(folder / "corpus" / "valid")
    minutes = typed.training.minutes or (0.0 if "steps" in tables.get("training", {}) else MINUTES)
    chosen = recipe(split.train if split else len(seen.groups), seen.characters, minutes=minutes)
    if {"architecture", "preset"} & typed.model.keys():
        chosen["model"] = {}  # the recipe's options may not exist there, or would change the preset
    tables = {**tables, "data": data}
    merged: dict[str, Any] = {name: {**table, **tables.pop(name, {})} for name, table in chosen.items()}
    return Plan(read_config(None, overrides, **merged, **tables), folder, split)


def _resumed(run: Path, tables: Mapping[str, Any], overrides: list[str]) -> Plan:
    """The run's configuration with the typed keys; training refuses changes that a run may not have."""
    from regard.training import rundir

    rundir.settle(run)
    return Plan(rundir.read_run(run, overrides, **tables), run)


def _with_model_defaults(config: Config) -> Config:
    """The configuration with every option of its model that has a value; a wrong one raises."""
    from regard.models import registry

    _check_model(config)
    defaults = registry.to_dict(registry.options_from(config.model))
    return replace(config, model={**config.model, **defaults, **config.model})  # first, and as it is, what was given


def _check_model(config: Config) -> None:
    """Raise for a wrong option of the model, before anything is written."""
    from regard.models import registry

    vocabulary = config.data.vocabulary
    try:
        options = registry.options_from(config.model)
        registry.parameter_count(options, vocabulary, None if config.data.joint else vocabulary)
    except (ValueError, TypeError) as error:
        raise RegardError(f"model: {error}") from None


def _say_choices(config: Config, split: Split, run: Path) -> None:
    from regard.data.corpus import remarks

    data = config.data
    for line in remarks(split.entry, split.data):
        talk(line)
    talk(f"{data.source} → {data.target}: {split.train:,} pairs to train on, {len(split.held_out):,} held out")
    talk(f"at most {data.vocabulary:,} subwords; everything is written to {run}")
    if config.training.minutes:
        talk(
            f"at most {config.training.minutes:g} minutes (--minutes), less if BLEU on the held-out pairs stops rising"
        )


def _train(plan: Plan, device: str, resume: bool, force: bool, json: bool) -> int:
    from regard.training.distributed import Group
    from regard.training.loop import train as run_training

    result = run_training(
        plan.config, plan.run, resume=resume, force=force, device=device, hold_out=None if resume else plan.split
    )
    if not Group.from_environment().first:
        pass  # the first process prints for all
    elif json:
        scores = ("loss", "perplexity", "bleu", "bleu_signature")
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
