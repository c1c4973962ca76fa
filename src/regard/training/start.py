"""The model that a training starts from (``training.init``), with the options that the configuration changes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from regard import tasks
from regard.config import Config
from regard.data.prepare import Prepared
from regard.directory import Loaded
from regard.errors import RegardError
from regard.models import registry
from regard.pipelines.loading import open_model
from regard.tasks.task import Task
from regard.text.settings import TextSettings


def start_from(config: Config) -> Loaded | None:
    """The initial model. Keys of ``[model]`` replace its options; an error names the first weight that does not fit."""
    if not config.training.init:
        return None
    start = open_model(config.training.init)
    if start.task != config.task:
        raise RegardError(
            f"training.init = {config.training.init}: it is a model of task '{start.task}', and task = '{config.task}'"
        )
    _ = start.text  # raises for a model that reads no text
    options = _options(start.options, config.model)
    tasks.check(config, registry.architecture_of(options))
    if options == start.options:
        return start
    sizes = start.vocabulary
    wanted, there = (
        {name: shape for name, shape, _ in registry.describe(some, *sizes)} for some in (options, start.options)
    )
    for name in sorted(wanted.keys() | there.keys()):
        if wanted.get(name) != there.get(name):
            raise RegardError(
                f"training.init = {config.training.init}: [model] makes '{name}' {_shape(wanted.get(name))}, and there "
                f"it is {_shape(there.get(name))}; leave out of [model] what the model to start from says already"
            )
    model = options.build(*sizes)
    model.load_state_dict(start.model.state_dict())
    return replace(start, model=model.eval(), options=options)


def prepare_options(task: Task, start: Loaded | None) -> dict[str, Any]:
    """The options of ``prepare``: tokenizers and labels of the initial model, or what a new vocabulary needs."""
    if start is None:
        return {"specials": task.specials}
    settings, *pair = start.text
    labels = tuple(getattr(start.options, "labels", ()))
    return {"tokenizers": tuple(pair), "after": settings.ends[:1], "labels": labels}


class ModelParts(NamedTuple):
    """What a training's model is built from: options, text settings, and the rows of its tables."""

    options: Any
    settings: TextSettings
    vocabulary: tuple[int, int | None]


def model_parts(config: Config, task: Task, prepared: Prepared, start: Loaded | None) -> ModelParts:
    """The parts of the trained model: those of the initial model, or what task and corpus say."""
    settings = task.settings(config, prepared) if start is None else start.text.settings
    settings = replace(
        settings, max_length=task.max_length(config, prepared), length_penalty=config.decoding.length_penalty
    )
    if start is not None:
        return ModelParts(start.options, settings, start.vocabulary)
    source, target = prepared.tokenizer, prepared.target_tokenizer
    sizes = source.size, None if target is source else target.size
    return ModelParts(task.options(registry.options_from(config.model), prepared.labels), settings, sizes)


def _options(start: Any, given: dict[str, Any]) -> Any:
    """The initial model's options, replaced by the given ones; a preset or another architecture replaces all."""
    if "preset" in given or given.get("architecture", registry.architecture_of(start)) != registry.architecture_of(
        start
    ):
        return registry.options_from(given)
    return registry.options_from({**registry.to_dict(start), **given})


def _shape(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else str(list(shape))
