"""Architectures by name, and their options read from and written to plain dictionaries.

The tables are closed: a name in a file chooses among their entries, and nothing is imported by a name from a file. An
architecture is a frozen dataclass of *options* with ``build(vocabulary, target_vocabulary) -> Model``; its module may
have ``PRESETS: dict[str, options]``. Some options are *parts*, small dataclasses of their own, written as

    positions = "rotary"                              the part with its defaults
    positions = { kind = "rotary", theta = 500000.0 }   the part with its own options

>>> options_from({"architecture": "transformer", "preset": "tiny", "positions": "rotary"})    # doctest: +SKIP
Transformer(width=128, …, positions=Rotary(theta=10000.0), …)
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import pydantic
import torch
from torch.overrides import TorchFunctionMode

from regard import limits
from regard.errors import RegardError, nearest
from regard.models.contract import Model


@dataclass(frozen=True)
class Architecture:
    """A line of the registry: where the ``options`` are, and the capabilities of the models.

    ``source``: they encode a source for the decoder; without it the text is the target alone. ``generates``: they
    predict the next token of a target. ``labels``: they may have a head that gives scores of labels.
    """

    options: str  # "module:class", imported when the architecture is first used
    source: bool
    generates: bool = True
    labels: bool = False


# By name. A new architecture is one line here.
ARCHITECTURES: dict[str, Architecture] = {
    "transformer": Architecture("regard.models.transformer:Transformer", source=True),
    "rnn": Architecture("regard.models.rnn:RNN", source=True),
    "decoder": Architecture("regard.models.decoder:DecoderOnly", source=False),
    "encoder": Architecture("regard.models.encoder:Encoder", source=False, generates=False, labels=True),
}

NORMS = {"layer_norm": "regard.nn.norm:LayerNorm", "rms_norm": "regard.nn.norm:RMSNorm"}

# option → kind → "module:class": which parts an option may hold.
PARTS: dict[str, dict[str, str]] = {
    "positions": {
        "sinusoidal": "regard.nn.positions:Sinusoidal",
        "learned": "regard.nn.positions:Learned",
        "rotary": "regard.nn.positions:Rotary",
        "relative_bias": "regard.nn.positions:RelativeBias",
        "alibi": "regard.nn.positions:ALiBi",
        "none": "regard.nn.positions:NoPositions",
    },
    "norm": NORMS,
    "query_key_norm": NORMS,
    "embedding_norm": NORMS,
    "scaling": {
        "llama3": "regard.nn.rotary:Llama3Scaling",
        "linear": "regard.nn.rotary:LinearScaling",
    },
    "head": {
        "masked_words": "regard.models.heads:MaskedWords",
        "text_labels": "regard.models.heads:TextLabels",
        "token_labels": "regard.models.heads:TokenLabels",
        "spans": "regard.models.heads:Spans",
    },
}


# No model comes near these numbers. A larger one is a slip or an attack: to build such a model takes hours
# even on the meta device, without memory.
LARGEST: dict[str, int] = {
    "width": 1 << 17,
    "feedforward": 1 << 20,
    "heads": 1 << 12,
    "head_width": 1 << 17,
    "window": 1 << 24,
    "key_value_heads": 1 << 12,
    "layers": 1 << 10,
    "encoder_layers": 1 << 9,
    "decoder_layers": 1 << 9,
    "length": 1 << 24,  # of learned positions
    "offset": 1 << 24,
    "original_length": 1 << 24,  # of scaled rotary positions
    "segments": 1 << 16,
    "buckets": 1 << 16,  # of relative bias, and the distance that they cover
    "distance": 1 << 24,
    "vocabulary": limits.VOCABULARY,
}


class Options(Protocol):
    """The options of any architecture."""

    def build(self, vocabulary: int, target_vocabulary: int | None = None) -> Model: ...


def options_class(architecture: str) -> type[Any]:
    """The options dataclass of an architecture.

    >>> options_class("transformer").__name__
    'Transformer'
    """
    return _imported(capabilities(architecture).options)


def capabilities(architecture: str) -> Architecture:
    """The capabilities of an architecture, without importing it; an unknown name raises RegardError."""
    found: Architecture = _entry(ARCHITECTURES, architecture, "model.architecture", "architecture")
    return found


def presets(architecture: str) -> dict[str, Any]:
    """The named configurations of an architecture: name → options."""
    module = importlib.import_module(options_class(architecture).__module__)
    return dict(getattr(module, "PRESETS", {}))


def options_from(values: Mapping[str, Any]) -> Any:
    """Options from a dictionary such as the ``[model]`` table of a configuration or ``config.json``.

    ``architecture`` (default "transformer") and ``preset`` choose the options to begin with; every other key replaces
    one. A wrong key or value raises a RegardError that names the key.
    """
    given = dict(values)
    architecture = given.pop("architecture", "transformer")
    cls = options_class(architecture)
    start: dict[str, Any] = {}
    if (preset := given.pop("preset", "")) != "":
        known = presets(architecture)
        base = _entry(known, preset, "model.preset", f"preset of '{architecture}'")
        start = {field.name: getattr(base, field.name) for field in dataclasses.fields(cls)}
    return _read(cls, given, "model", start)


def to_dict(options: Any) -> dict[str, Any]:
    """The options as plain JSON values, ``architecture`` first: the inverse of ``options_from``."""
    return {"architecture": architecture_of(options), **_plain(options)}


def architecture_of(options: Any) -> str:
    """The registered name of the options' class."""
    path = f"{type(options).__module__}:{type(options).__qualname__}"
    for name, registered in ARCHITECTURES.items():
        if registered.options == path:
            return name
    raise RegardError(f"{path} is not a registered architecture; known: {', '.join(ARCHITECTURES)}")


def kind_of(option: str, part: object) -> str:
    """The kind of a part that an option holds, such as "rms_norm" of the option "norm"."""
    return next(kind for kind, path in PARTS[option].items() if _imported(path) is type(part))


def layers(options: Any) -> int:
    """The number of layers of all stacks together."""
    return sum(getattr(options, field.name) for field in dataclasses.fields(options) if field.name.endswith("layers"))


def options_table(architecture: str) -> list[tuple[str, str, Any, str]]:
    """Every option of an architecture as (key, type, default, help), for documentation and ``--help``."""
    rows = []
    for field in dataclasses.fields(options_class(architecture)):
        kind = " | ".join(PARTS[field.name]) if field.name in PARTS else str(field.type)
        default = _plain_value(field.name, _default(field))
        rows.append((field.name, kind, default, field.metadata.get("help", "")))
    return rows


class Uninitialized(TorchFunctionMode):
    """Within the block ``torch.nn.init`` does nothing: for models whose weights are loaded afterwards, or never needed.

    On the meta device this saves an import too: there ``torch.nn.init`` would import much of PyTorch's compiler.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def describe(
    options: Options, vocabulary: int, target_vocabulary: int | None = None
) -> list[tuple[str, tuple[int, ...], int]]:
    """The model's parameters as (name, shape, count), a tied table once. Nothing is allocated."""
    for size in (vocabulary, target_vocabulary or 1):
        if not 0 < size <= LARGEST["vocabulary"]:
            raise RegardError(f"a vocabulary of {size} entries: expected 1 to {LARGEST['vocabulary']}")
    try:
        with torch.device("meta"), Uninitialized():
            model = options.build(vocabulary, target_vocabulary)
    except ValueError as error:  # parts that do not fit together, such as rotary positions and an odd head width
        raise RegardError(f"model: {error}") from error
    return [(name, tuple(p.shape), p.numel()) for name, p in model.named_parameters(remove_duplicate=True)]


def parameter_count(options: Options, vocabulary: int, target_vocabulary: int | None = None) -> int:
    """Distinct trainable numbers: a tied table once, embeddings included, sinusoids not."""
    return sum(count for _, _, count in describe(options, vocabulary, target_vocabulary))


def _read(cls: type[Any], given: Mapping[str, Any], where: str, start: Mapping[str, Any]) -> Any:
    """A dataclass from a dictionary; RegardError for an unknown key, or a value that is not of its field's type."""
    fields = {field.name: field for field in dataclasses.fields(cls)}
    types = typing.get_type_hints(cls)
    values = dict(start)
    for key, value in given.items():
        if key not in fields:
            raise RegardError(f"unknown key {f'{where}.{key}'!r:.100}{nearest(key, fields) or _listed(fields)}")
        values[key] = _read_value(key, types[key], value, f"{where}.{key}")
    try:
        return cls(**values)
    except (ValueError, TypeError) as error:
        raise RegardError(f"{where}: {error}") from error


def _read_value(key: str, annotation: Any, value: Any, where: str) -> Any:
    if key in PARTS:
        left_out = value is None and type(None) in typing.get_args(annotation)
        return None if left_out else _read_part(key, value, where)
    if isinstance(value, int) and key in LARGEST and value > LARGEST[key]:
        raise RegardError(f"'{where}' is {value!r:.40}: expected at most {LARGEST[key]}")
    try:
        # Strict, so that "512" or 512.0 is no width; as JSON, where a list is the one way to write a tuple.
        return pydantic.TypeAdapter(annotation).validate_json(json.dumps(value), strict=True)
    except (pydantic.ValidationError, TypeError) as error:
        # A value of several types has a fault for each.
        faults = (
            [each["msg"] for each in error.errors()] if isinstance(error, pydantic.ValidationError) else [str(error)]
        )
        reason = " or ".join(fault[:1].lower() + fault[1:] for fault in faults)
        raise RegardError(f"'{where}' is {value!r:.200}: {reason}") from error


def _read_part(key: str, value: Any, where: str) -> Any:
    classes = {kind: _imported(path) for kind, path in PARTS[key].items()}
    if type(value) in classes.values():  # Python code may hand over the part itself.
        return value
    if isinstance(value, str):
        value = {"kind": value}
    if not isinstance(value, Mapping) or not isinstance(value.get("kind"), str):
        raise RegardError(f"'{where}' is {value!r:.200}: expected one of {', '.join(classes)}, or a table with 'kind'")
    rest = {name: v for name, v in value.items() if name != "kind"}
    alike = {_folded(name): name for name in classes}.get(_folded(value["kind"]), value["kind"])
    return _read(_entry(classes, alike, where, "kind"), rest, where, {})


def _plain(spec: Any) -> dict[str, Any]:
    return {field.name: _plain_value(field.name, getattr(spec, field.name)) for field in dataclasses.fields(spec)}


def _plain_value(key: str, value: Any) -> Any:
    if key in PARTS and dataclasses.is_dataclass(value):
        return {"kind": kind_of(key, value), **_plain(value)}
    return list(value) if isinstance(value, tuple) else value


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default


def _entry(table: Mapping[str, Any], name: Any, where: str, what: str) -> Any:
    """An entry of a closed table; an unknown name raises RegardError."""
    if isinstance(name, str) and name in table:
        return table[name]
    hint = nearest(name, table) if isinstance(name, str) else ""
    raise RegardError(f"'{where}' is {name!r:.100}: no such {what}{hint or _listed(table)}")


def _listed(names: Any) -> str:
    return f"; known: {', '.join(names) or 'none'}"


def _folded(name: str) -> str:
    """'RMSNorm', 'rms-norm' and 'rms_norm' are one kind."""
    return name.lower().replace("_", "").replace("-", "")


@cache
def _imported(path: str) -> type[Any]:
    module, name = path.split(":")
    return typing.cast("type[Any]", getattr(importlib.import_module(module), name))
