"""The training that the arguments of ``regard train`` mean: task, languages, held-out data and recipe."""

from __future__ import annotations

import glob
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any, NamedTuple

from regard.config import Config, read_config
from regard.errors import RegardError

if TYPE_CHECKING:
    from regard.data.holdout import Split


class Plan(NamedTuple):
    """The training that the arguments mean."""

    config: Config
    run: Path
    split: Split | None = None  # the division of the corpus, not written yet


def plan_run(
    files: list[str], run: str, resume: bool, given: Mapping[str, Any], overrides: list[str], ending: str = ""
) -> Plan:
    """The plan that the arguments mean; ``ending`` is added to a default name of the run."""
    from regard.data.corpus import is_one_file

    tables = _tables(given)
    if _is_corpus(files):
        task = _task(files, tables, overrides)
        if task == "translation" and len(files) == 1 and not is_one_file(files[0]):
            raise RegardError(f"{files[0]}: a translation needs two text files, or one of pairs (.tsv, .csv, .jsonl)")
        if resume:
            return _resumed(Path(run or _default_run(task, files, tables)), tables, overrides)
        return _from_corpus(task, files, run or _default_run(task, files, tables) + ending, tables, overrides)
    if len(files) != 1:
        raise RegardError(
            "expected CONFIG.toml, two text files, one corpus (.tsv, .csv, .jsonl, .txt), or --resume RUN"
        )
    path = Path(files[0])
    if resume:
        folder = Path(run) if run else path
        if not run and path.suffix == ".toml":
            folder = Path("runs") / path.stem
        return _resumed(folder, tables, overrides)
    if path.is_dir():
        raise RegardError(
            f"{path}: is a folder; to go on with a run: regard train --resume {quote(str(path))}; "
            "to start from a model: regard train CORPUS --init MODEL"
        )
    from regard.training.rundir import read_file

    return Plan(read_file(path, overrides, **tables), Path(run or f"runs/{path.stem}{ending}"))


def _is_corpus(files: list[str]) -> bool:
    """Whether the arguments are files of text: two, a table, JSON lines, or any existing one that is no TOML."""
    from regard.data.corpus import is_one_file

    if len(files) != 1:
        return len(files) == 2
    path = Path(files[0])
    return is_one_file(files[0]) or (path.suffix != ".toml" and path.exists() and not path.is_dir())


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


def _task(files: list[str], tables: Mapping[str, Any], overrides: list[str]) -> str:
    """The task: the typed one, or by the corpus."""
    from regard.data.corpus import is_one_file, languages_in
    from regard.data.examples import kind_of

    set_ = {key.strip(): value.strip() for key, _, value in (text.partition("=") for text in overrides)}
    typed = {f"data.{key}" for key, value in tables.get("data", {}).items() if value} | set_.keys()
    if task := tables.get("task") or set_.get("task", ""):
        return str(task).strip("\"'")
    if len(files) == 2 or typed & {"data.source", "data.target", "data.source_key", "data.target_key"}:
        return "translation"
    if not is_one_file(files[0]):
        _refuse_side(files[0])
        return "language_model"
    if typed & {"data.label", "data.pair"}:
        return "classification"
    if "data.text" in typed:
        return "language_model"
    found = kind_of(files[0]) if not all(languages_in(files[0])) else ""
    return found or "translation"


def _refuse_side(file: str) -> None:
    """Raise for a text beside which one of another language has the same name: one side of a corpus of pairs."""
    from regard.data.headers import language
    from regard.data.holdout import languages_of
    from regard.data.reading import bare

    (own,) = languages_of([file])
    if not language(own):
        return
    stem = Path(bare(Path(file).name)).stem
    for other in sorted(Path(file).parent.glob(f"{glob.escape(stem)}.*")):
        (theirs,) = languages_of([other.name])
        if language(theirs) and language(theirs) != language(own) and Path(bare(other.name)).stem == stem:
            raise RegardError(
                f"{file}: {other.name} beside it is the other language's file: name both, or say --task language_model "
                "for this text alone"
            )


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
        two = len(files) == 2
        other = "" if two else "; for texts with labels say --task classification --text 0 --label 1 (name or number)"
        raise RegardError(
            f"{' '.join(files)}: the {'endings' if two else 'columns'} name no languages; say --source-language and "
            f"--target-language{other}"
        )
    if source == target:
        raise RegardError(
            f"{' '.join(files)}: both are '{source}'; name files as in train.zh train.en, or say --source-language and "
            "--target-language"
        )
    return source, target


def _default_run(task: str, files: list[str], tables: Mapping[str, Any]) -> str:
    from regard.data.reading import bare

    return "runs/" + ("-".join(_languages(files, tables)) if task == "translation" else Path(bare(files[0])).stem)


def _from_corpus(task: str, files: list[str], run: str, tables: dict[str, Any], overrides: list[str]) -> Plan:
    """The plan for a corpus: held-out validation data, and a recipe under the typed keys."""
    from regard.training.recipe import MINUTES, recipe

    folder = Path(run)
    entry = files[0] if len(files) == 1 else (files[0], files[1])
    data = {"valid": entry, **tables.get("data", {}), "train": [entry]}
    if task == "translation":
        data["source"], data["target"] = _languages(files, tables)
    # Check the typed keys before a large corpus is read.
    tables = {**tables, "data": data, "task": task}
    typed = read_config(None, overrides, **tables)
    seen = _survey(typed)
    split = seen.hold_out() if typed.data.valid == entry else None
    if split is not None:
        train, data["valid"] = split.places(folder / "corpus")
        data["train"] = [train]
    minutes = typed.training.minutes or (0.0 if "steps" in tables.get("training", {}) else MINUTES)
    chosen = recipe(split.train if split else seen.size, seen.characters, task=typed.task, minutes=minutes)
    if {"architecture", "preset"} & typed.model.keys():
        # The other options of the recipe may not exist there, or would change the preset.
        chosen["model"] = {"architecture": chosen["model"]["architecture"]}
    if typed.training.init:
        chosen["model"] = {}
        for key in ("tokenizer", "vocabulary"):  # those of the initial model are used
            chosen["data"].pop(key, None)
    merged: dict[str, Any] = {name: {**table, **tables.pop(name, {})} for name, table in chosen.items()}
    return Plan(read_config(None, overrides, **merged, **tables), folder, split)


def _survey(config: Config) -> Any:
    """What is known of the corpus before a training: its size and characters, and what can be held out."""
    from regard.data.columns import is_stream
    from regard.data.corpus import is_one_file
    from regard.data.examples import file_of
    from regard.data.holdout import survey
    from regard.data.last_tenth import survey_text
    from regard.data.streams import check_key
    from regard.tasks import task_named

    columns, entry = task_named(config.task).columns(config.data), config.data.train[0]
    if is_stream(columns):
        check_key([entry, config.data.valid], columns)
        path = file_of(entry, text=True)
        if not is_one_file(path):
            return survey_text(path)
    return survey(entry, config.data, columns)


def _resumed(run: Path, tables: Mapping[str, Any], overrides: list[str]) -> Plan:
    """The run's configuration with the typed keys; training refuses changes that a run may not have."""
    from regard.training import rundir

    rundir.settle(run)
    return Plan(rundir.read_run(run, overrides, **tables), run)
