"""Tasks, one file each: what a model is trained for, and the pipeline that runs it (``regard.load``)."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from regard.errors import RegardError, nearest
from regard.models.registry import capabilities
from regard.pipelines.loading import open_to_run

if TYPE_CHECKING:
    from regard.config import Config
    from regard.tasks.task import Task

__all__ = ["TASKS", "check", "load", "metric_of", "pipeline_of", "task_named"]


@dataclass(frozen=True)
class Entry:
    """A line of the table of tasks. Classes are named as "module:class", and imported on use: a verb needs few."""

    verb: str = ""  # of the command line, which runs models of the task; "": no verb does yet
    pipeline: str = ""  # in regard.pipelines
    task: str = ""  # in regard.tasks; "": models of this task are run, and cannot be trained yet


#: By the name in ``task`` of a configuration and of config.json. A new task is one file and one line here.
TASKS = {
    "translation": Entry("translate", "translator:Translator", "translation:Translation"),
    "language_model": Entry("generate", "generator:Generator", "language_model:LanguageModel"),
    "masked": Entry("fill", "filler:Filler", "masked:Masked"),
    "classification": Entry("classify", "classifier:Classifier", "classification:Classification"),
    "tagging": Entry("tag", "tagger:Tagger"),
    "spans": Entry(),
    "embedding": Entry(),
}


def task_named(name: str) -> Task:
    """The task of this name, to be trained."""
    entry = _entry(name)
    if not entry.task:
        known = ", ".join(each for each, other in TASKS.items() if other.task)
        raise RegardError(f"task = {name!r:.60}: models of this task cannot be trained yet; expected one of {known}")
    found: Task = _imported(f"regard.tasks.{entry.task}")()
    return found


def metric_of(config: Config) -> str:
    """The measure by which a run chooses weights: the configuration's, or the task's own."""
    return task_named(config.task).metrics[0] if config.training.metric == "auto" else config.training.metric


def check(config: Config, architecture: str = "") -> None:
    """A RegardError for a configuration whose task does not fit, before anything is read or written.

    ``architecture``: that of the model to start from; "": the configuration's.
    """
    task, metric = task_named(config.task), metric_of(config)
    if metric not in task.metrics:
        known = ", ".join(task.metrics)
        raise RegardError(f"training.metric = '{metric}': task '{task.name}' measures {known}")
    task.check(config, capabilities(architecture or config.model.get("architecture", "transformer")))


def pipeline_of(name: str) -> Any:
    """The class of the pipeline that runs models of a task; a RegardError if none does yet."""
    if not _entry(name).pipeline:
        raise RegardError(f"task = {name!r:.60}: no pipeline runs models of this task yet")
    return _imported(f"regard.pipelines.{_entry(name).pipeline}")


def load(
    name: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    *,
    task: str = "",
    only_decoding: bool = False,
    **options: Any,
) -> Any:
    """The pipeline of a model: a ``Translator``, ``Generator``, ``Filler``, ``Classifier`` or ``Tagger``.

    ``name``: a model directory, a folder as ``save_pretrained`` of Hugging Face writes it, or a packaged model.
    ``dtype`` is that of the arithmetic; ``torch.int8``: products in int8 on a CPU, of a model that is read in fp32.
    ``task``: what the model must be for; a RegardError names the verb for another. ``only_decoding``: on a CPU the
    weights are held once, prepared, and the model cannot be recorded. ``options``: keywords of the pipeline's class.
    """
    plain = options.get("backend", "regard") == "regard" and not options.get("shortlist")
    loaded = open_to_run(name, device, dtype, only_decoding and plain)
    entry = _entry(loaded.task)
    if not entry.pipeline:
        raise RegardError(
            f"{name}: a model of task '{loaded.task}': no verb runs one yet (in Python: "
            "regard.pipelines.loading.open_model)"
        )
    if task and loaded.task != task:
        raise RegardError(
            f"{name}: a model of task '{loaded.task}', expected '{task}'; it is run by: regard {entry.verb}"
        )
    return pipeline_of(loaded.task)(loaded, **options)


def _entry(name: str) -> Entry:
    if name not in TASKS:
        raise RegardError(f"task = {name!r:.60}: no such task{nearest(name, TASKS)}; known: {', '.join(TASKS)}")
    return TASKS[name]


def _imported(path: str) -> Any:
    module, name = path.split(":")
    return getattr(importlib.import_module(module), name)
