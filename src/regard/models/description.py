"""What ``config.json`` says of a model: its architecture with its options, its task, and its vocabularies.

Format 2 is written. Format 1 has no task and no vocabulary, and is read for ever: its task is the usual one of the
model, and its vocabularies are as large as the tokenizers'.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from regard import limits
from regard.errors import RegardError, nearest
from regard.models import registry
from regard.regular import read_json

FORMAT_VERSION = 2  # which is written
FORMATS = (1, 2)  # which are read
TASKS = ("translation", "language_model", "masked", "classification", "tagging", "spans", "embedding")
#: Of each kind of head the task that it is for.
HEADS = {"masked_words": "masked", "text_labels": "classification", "token_labels": "tagging", "spans": "spans"}

#: Rows of the tables of the source (or the only text) and of the target, which may exceed the tokenizer's entries;
#: None: one vocabulary for both; (0, None) without text.
Vocabulary = tuple[int, int | None]


class Described(NamedTuple):
    """What ``config.json`` says of a model; ``vocabulary`` None in format 1."""

    options: Any
    task: str
    vocabulary: Vocabulary | None


def config_of(options: Any, task: str | None, vocabulary: Vocabulary) -> dict[str, Any]:
    """The content of ``config.json``; ``task`` None: the first that the model can do."""
    described = registry.to_dict(options)
    architecture = described.pop("architecture")
    return {
        "format_version": FORMAT_VERSION,
        "architecture": architecture,
        "task": tasks_of(options)[0] if task is None else _read_task(task, options),
        "options": described,
        "vocabulary": vocabulary[0] if vocabulary[1] is None else list(vocabulary),
    }


def read_config(path: Path) -> Described:
    """The architecture's options, task and vocabulary from a ``config.json`` of any format."""
    config = read_json(path)
    version = config.pop("format_version", None)
    if version not in FORMATS or type(version) is not int:
        known = " and ".join(map(str, FORMATS))
        raise RegardError(f"{path}: unknown format_version {version!r:.40}: this regard reads {known}")
    keys = ["architecture", "options", *(["task", "vocabulary"] if version > 1 else [])]
    for key in config:
        if key not in keys:
            raise RegardError(f"{path}: unknown key {key!r:.100}{nearest(key, ['format_version', *keys])}")
    architecture, options = config.get("architecture"), config.get("options")
    if not isinstance(architecture, str) or not isinstance(options, dict):
        raise RegardError(f"{path}: expected 'architecture' (a name) and 'options' (a table)")
    if {"architecture", "preset"} & set(options):
        raise RegardError(f"{path}: 'options' holds the options themselves, no architecture or preset")
    try:
        found = registry.options_from({"architecture": architecture, **options})
        if version == 1:
            return Described(found, tasks_of(found)[0], None)
        return Described(found, _read_task(config.get("task"), found), _read_vocabulary(config.get("vocabulary")))
    except RegardError as error:
        raise RegardError(f"{path}: {error}") from None


def tasks_of(options: Any) -> list[str]:
    """The tasks that a model with these options can do, by its architecture and its head; the usual one first."""
    able, tasks = registry.capabilities(registry.architecture_of(options)), []
    if able.generates:
        tasks.append("translation" if able.source else "language_model")
    if able.labels:
        head = getattr(options, "head", None)
        tasks += [] if head is None else [HEADS[registry.kind_of("head", head)]]
        tasks.append("embedding")
    return tasks


def _read_task(task: Any, options: Any) -> str:
    """The task; a RegardError for one that is not among ``TASKS``, or that the model cannot do."""
    if not isinstance(task, str) or task not in TASKS:
        hint = nearest(task, TASKS) if isinstance(task, str) else ""
        raise RegardError(f"'task' is {task!r:.60}: expected one of {', '.join(TASKS)}{hint}")
    if task not in (able := tasks_of(options)):
        raise RegardError(
            f"'task' is '{task}', which a model of architecture '{registry.architecture_of(options)}' with this head "
            f"cannot do: expected {' or '.join(able)}"
        )
    return task


def _read_vocabulary(value: Any) -> Vocabulary:
    """One number, or [source, target]; a RegardError for anything else."""
    sizes = value if isinstance(value, list) and len(value) == 2 else [value]
    if not all(type(size) is int and 0 <= size <= limits.VOCABULARY for size in sizes):
        raise RegardError(
            f"'vocabulary' is {value!r:.60}: expected a number from 0 to {limits.VOCABULARY}, or [source, target]"
        )
    return sizes[0], sizes[1] if sizes[1:] else None
