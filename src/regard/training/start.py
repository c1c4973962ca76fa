"""The model that a training starts from (``training.init``), with the options that the configuration changes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from regard import directory
from regard.config import Config
from regard.data.prepare import Prepared
from regard.directory import Loaded
from regard.errors import RegardError
from regard.models import registry
from regard.text.settings import TextSettings


def start_from(config: Config) -> Loaded | None:
    """The initial model. Keys of ``[model]`` replace its options; an error names the first weight that does not fit."""
    if not config.training.init:
        return None
    start = directory.load(config.training.init)
    options = _options(start.options, config.model)
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


def settings_of(config: Config, prepared: Prepared, start: Loaded | None) -> TextSettings:
    """The text settings of the trained model."""
    settings = (
        prepared.settings if start is None else replace(start.text.settings, max_length=prepared.settings.max_length)
    )
    return replace(settings, length_penalty=config.decoding.length_penalty)


def _options(start: Any, given: dict[str, Any]) -> Any:
    """The initial model's options, replaced by the given ones; a preset or another architecture replaces all."""
    if "preset" in given or given.get("architecture", registry.architecture_of(start)) != registry.architecture_of(
        start
    ):
        return registry.options_from(given)
    return registry.options_from({**registry.to_dict(start), **given})


def _shape(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else str(list(shape))
