"""The configuration of a run: read from TOML and from the command line, checked, and written.

schema.py declares the keys and checks their ranges; pydantic checks their types.
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from regard.errors import RegardError, nearest
from regard.regular import read_regular
from regard.schema import COLUMNS, TABLES, Config, DataConfig, DecodingConfig, Option, TrainingConfig, options_table

__all__ = [
    "Config",
    "DataConfig",
    "DecodingConfig",
    "Option",
    "TrainingConfig",
    "options_table",
    "read_config",
    "to_toml",
]


def read_config(path: Path | None, overrides: Sequence[str] = (), **tables: Mapping[str, Any] | int | str) -> Config:
    """The configuration from a TOML file, then ``tables``, then ``key=value`` overrides; later values win."""
    values = _read_toml(path) if path is not None else {}
    where = str(path) if path is not None else "configuration"
    for name, given in tables.items():
        if isinstance(given, Mapping):
            _table(values, name, where).update(given)
        else:
            values[name] = given
    _reject_unknown(values, where)
    _refuse_repeats(overrides)
    for text in overrides:
        _override(values, text)
    return _validate(values, where)


def to_toml(config: Config) -> str:
    """The full configuration as TOML, from which ``read_config`` makes an equal one."""
    import tomli_w

    return tomli_w.dumps(_plain(dataclasses.asdict(config)))


def _plain(value: Any) -> Any:
    """A value for TOML, which has no null: keys without a value are left out."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _read_toml(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise RegardError(f"{path}: no such file; expected a TOML configuration")
    try:
        return tomllib.loads(read_regular(path).decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise RegardError(f"{path}: not UTF-8 at byte {error.start}; expected a TOML configuration") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise RegardError(f"{path}: not valid TOML: {error}") from None


def _table(values: dict[str, Any], name: str, where: str) -> dict[str, Any]:
    table = values.setdefault(name, {})
    if not isinstance(table, dict):
        raise RegardError(f"{where}: '{name}' must be a table: write [{name}]")
    return table


def _reject_unknown(values: dict[str, Any], where: str) -> None:
    """Raise for an unknown key, with the nearest known key, also of another table."""
    known = [row.key for row in options_table()]
    for name in values:
        if name in known or name == "model":
            continue
        if name not in TABLES:
            raise RegardError(f"{where}: unknown key '{name}'{_suggest('', name, known)}")
        for key in _table(values, name, where):
            if f"{name}.{key}" not in known:
                raise RegardError(f"{where}: unknown key '{name}.{key}'{_suggest(name, key, known)}")
    _table(values, "model", where)


def _suggest(name: str, key: str, known: Sequence[str]) -> str:
    """A hint for a wrong key: the same name in another table, else the nearest of its own, else of any."""
    anywhere = {row.rpartition(".")[2]: row for row in reversed(known)}
    own = {row.rpartition(".")[2]: row for row in known if row.startswith(f"{name}.")}
    tables = {table: table for table in TABLES}
    for found, cutoff in ((anywhere, 1.0), (own if name else tables, 0.6), (anywhere, 0.6)):
        if close := difflib.get_close_matches(key, found, n=1, cutoff=cutoff):
            return f" — did you mean '{found[close[0]]}'?"
    return ""


def _refuse_repeats(overrides: Sequence[str]) -> None:
    """Raise for a key with two values."""
    keys = [text.partition("=")[0].strip() for text in overrides]
    for key in keys:
        if keys.count(key) > 1:
            raise RegardError(f"--set {key}=… is given {keys.count(key)} times: expected once")


def _override(values: dict[str, Any], text: str) -> None:
    """Apply one ``key=value``; the value is TOML, or else text."""
    name, equals, raw = text.partition("=")
    key = name.strip()
    if name != key:
        raw = raw.strip()  # "key = value", as in TOML; without spaces around "=", a space may belong to a path
    if not equals or not key:
        raise RegardError(f"--set {text}: expected KEY=VALUE, such as training.steps=2000")
    known = [row.key for row in options_table()]
    parts = key.split(".")
    if key not in known and not (parts[0] == "model" and len(parts) > 1 and all(parts)):
        raise RegardError(
            f"--set {text}: unknown key '{key}'{_suggest(parts[0] if parts[1:] else '', parts[-1], known)}"
        )
    try:
        value = tomllib.loads(f"value = {raw}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        value = raw
    table = values
    for part in parts[:-1]:
        inner = table.get(part)
        if isinstance(inner, str):
            # model.positions = "rotary" is short for {kind = "rotary"}, whose options can be set.
            inner = {"kind": inner}
        elif not isinstance(inner, dict):
            inner = {}
        table[part] = inner
        table = inner
    table[parts[-1]] = value


def _validate(values: dict[str, Any], where: str) -> Config:
    """Check types by pydantic and ranges by the dataclasses; raise the first fault in words."""
    from pydantic import TypeAdapter, ValidationError

    data = values.setdefault("data", {})
    for key in ("train", "shares", "normalize"):
        # A single value needs no brackets.
        if isinstance(data.get(key), str | float | int) and not isinstance(data.get(key), bool):
            data[key] = [data[key]]
    for key in COLUMNS:
        # A column's number needs no quotes.
        if isinstance(data.get(key), int) and not isinstance(data.get(key), bool):
            data[key] = str(data[key])
    try:
        return TypeAdapter(Config).validate_python(values)
    except RegardError as error:
        raise RegardError(f"{where}: {error}") from None
    except ValidationError as error:
        raise RegardError(f"{where}: {_first_fault(error.errors()[0])}") from None


def _first_fault(fault: Any) -> str:
    """One line for one of pydantic's faults: the key, its value, the expected kind."""
    if fault["loc"][:2] in (("data", "train"), ("data", "valid"), ("data", "test")) and fault["type"] != "missing":
        key = ".".join(fault["loc"][:2])
        return f'{key}: {fault["input"]!r}: expected a prefix, one file, or a list of two files as ["a.zh", "b.en"]'
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "missing":
        help = {row.key: row.help for row in options_table()}.get(key, "")
        return f"'{key}' is missing" + (f" ({help})" if help else "")
    row = {row.key: row for row in options_table()}.get(".".join(str(p) for p in fault["loc"] if isinstance(p, str)))
    given = fault["input"]
    if row is not None and typing.get_origin(row.type) is Literal:
        choices = typing.get_args(row.type)
        return f"{key} = {given!r:.200}: expected one of {', '.join(choices)}{nearest(str(given), choices)}"
    return f"{key} = {given!r:.200}: {fault['msg'][0].lower()}{fault['msg'][1:]}"
