"""``regard params``: the parameters of a model, by part."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from regard import limits
from regard.cli.common import Json, print_json, talk


def params(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Model directory, published folder, packaged model, CONFIG.toml, or a preset such as rnn:small.",
        ),
    ],
    vocabulary: Annotated[
        int, typer.Option(min=0, max=limits.VOCABULARY, help="Entries, for a configuration or a preset.")
    ] = 0,
    target_vocabulary: Annotated[
        int, typer.Option(min=0, max=limits.VOCABULARY, help="Entries of the target, if it has its own.")
    ] = 0,
    depth: Annotated[int, typer.Option(min=1, max=limits.ANY_NUMBER, help="Levels of the tree to show.")] = 9,
    json: Json = False,
) -> None:
    """Print a model's parameters: distinct trainable numbers, a tied table once, without sinusoids.

    Equal layers share one line, with their number. No weights are read. Parameters of published folders have regard's
    names.

    Example: regard params base --vocabulary 37000
    """
    rows = _describe(model, vocabulary, target_vocabulary or None)
    total = sum(count for _, _, count in rows)
    groups = group(rows, depth)
    if json:
        parts = [{"name": name, "shape": shape, "times": times, "parameters": n} for name, shape, times, n in groups]
        print_json({"model": model, "parameters": total, "parts": parts})
        return
    width = max(len(name) for name, *_ in groups)
    for name, shape, times, count in groups:
        size = " × ".join(str(side) for side in shape) + (f"  ({times} times)" if times > 1 else "")
        print(f"{name:<{width}}  {count:>12,}  {count / total:>6.1%}  {size}".rstrip())
    print(f"{'total':<{width}}  {total:>12,}")


def group(rows: list[tuple[str, tuple[int, ...], int]], depth: int) -> list[tuple[str, tuple[int, ...], int, int]]:
    """(name, shape, times, parameters), layers of equal shape joined, names cut to ``depth`` parts.

    >>> group([("layers.0.w", (2, 3), 6), ("layers.1.w", (2, 3), 6)], 9)
    [('layers.*.w', (2, 3), 2, 12)]
    """
    found: dict[str, list[Any]] = {}
    for name, shape, count in rows:
        parts = re.sub(r"\.\d+(?=\.|$)", ".*", name).split(".")
        short = ".".join(parts[:depth])
        entry = found.setdefault(short, [shape, 0, 0])
        if entry[0] != shape or len(parts) > depth:
            entry[0] = ()  # several shapes share the line
        entry[1] += 1
        entry[2] += count
    return [(name, shape, times if shape else 1, count) for name, (shape, times, count) in found.items()]


def _describe(model: str, vocabulary: int, target: int | None) -> list[tuple[str, tuple[int, ...], int]]:
    """The parameters of ``model``, built on the meta device."""
    from regard.config import read_config
    from regard.errors import RegardError
    from regard.models import registry
    from regard.pipelines.loading import outline

    path = Path(model)
    if path.suffix == ".toml":
        config = read_config(path)
        options = registry.options_from(config.model)
        size = vocabulary or config.data.vocabulary
        if not vocabulary:
            talk(
                f"counted with data.vocabulary = {size:,} subwords; a small text gives fewer, and the run says how many"
            )
        return registry.describe(options, size, target or (None if config.data.joint else size))
    architecture, colon, preset = model.rpartition(":")
    architecture = architecture if colon else "transformer"
    if not path.exists() and architecture in registry.ARCHITECTURES and preset in registry.presets(architecture):
        if not vocabulary:
            raise RegardError(f"{model}: a preset has no vocabulary of its own; say --vocabulary 37000, for example")
        return registry.describe(registry.presets(architecture)[preset], vocabulary, target)
    options, sizes = outline(model)
    return registry.describe(options, *sizes)
