"""Flags of ``regard train``, made from the configuration's table of keys."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING
from typing import Annotated, Any, Literal

import typer

from regard.config import Option, options_table
from regard.errors import RegardError
from regard.schema import Entry

# Renamed, since "source" and "target" are files elsewhere on the command line.
NAMES = {"data.source": "source-language", "data.target": "target-language"}
# Keys without a flag: given as arguments, or of a name that another table has. --set reaches them.
WITHOUT = ("data.train", "data.shares", "data.normalize")
TABLES = ("seed", "task", "data", "training")


def config_flags() -> dict[str, Option]:
    """Parameter name → option of the configuration, for every key with a flag."""
    flags = {}
    for row in options_table():
        table, _, name = row.key.rpartition(".")
        if (table or name) in TABLES and row.key not in WITHOUT:
            flags[NAMES.get(row.key, name).replace("-", "_")] = row
    return flags


def with_config_flags(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give Typer one optional flag a key; the function gets the typed ones as ``given``, {key: value}."""
    flags = config_flags()
    own = inspect.signature(function, eval_str=True)

    def command(**values: Any) -> Any:
        given = {flags[name].key: values.pop(name) for name in list(values) if name in flags}
        return function(given={key: value for key, value in given.items() if value is not None}, **values)

    parameters = [item for item in own.parameters.values() if item.name != "given"]
    for name, row in flags.items():
        parameters.append(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_annotation(name, row))
        )
    signature = own.replace(
        parameters=[item.replace(kind=inspect.Parameter.KEYWORD_ONLY) for item in parameters],
        return_annotation=inspect.Signature.empty,
    )
    command.__signature__ = signature  # type: ignore[attr-defined]
    command.__annotations__ = {item.name: item.annotation for item in signature.parameters.values()}
    command.__doc__ = function.__doc__
    command.__name__ = function.__name__
    return command


def add_once(given: dict[str, Any], short: Mapping[str, str], overrides: Sequence[str]) -> None:
    """Add the keys of other flags (``short``; empty values were not typed) to ``given``.

    A key with two values, or given by a flag and by --set, is an error: one value would be lost.
    """
    for key, value in short.items():
        if value and given.setdefault(key, value) != value:
            raise RegardError(f"{key} is given twice, as {given[key]} and {value}: expected once")
    for text in overrides:
        key = text.partition("=")[0].strip()
        if key in given:
            raise RegardError(f"{key} is given twice, by a flag and by --set: expected once")


def _annotation(name: str, row: Option) -> Any:
    """The Typer option of a key; the configuration checks ranges and choices."""
    flag = "--" + name.replace("_", "-")
    notes = [] if row.default in (MISSING, "") else [str(row.default).lower()]
    kind = row.type
    if typing.get_origin(kind) is Literal:
        notes.insert(0, "|".join(typing.get_args(kind)))
        kind = str
    if kind == Entry:
        kind = str  # a list of two files is given in a configuration or by --set
    note = f" [{'; default '.join(notes)}]" if notes else ""
    help = (row.help[0].upper() + row.help[1:] + note).replace("[", "\\[")
    panel = "Data" if row.key == "task" or row.key.startswith("data.") else "Training"
    if kind is bool:
        flag = f"{flag}/--no-{name.replace('_', '-')}"
    return Annotated[kind | None, typer.Option(flag, help=help, rich_help_panel=panel)]
