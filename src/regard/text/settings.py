"""The text settings of a model: ``text.json``, the only definition of its special ids and normalisation."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from regard import limits
from regard.errors import RegardError, nearest
from regard.files import write
from regard.regular import read_json
from regard.text.normalize import KNOWN

ID, IDS = "a whole number, 0 or more", "a list of ids"

#: What each field holds, as errors say it; ``languages`` is checked by itself.
KINDS = {
    "pad": ID,
    "unk": ID,
    **dict.fromkeys(("start", "ends", "source_before", "source_after", "pair_between"), IDS),
    "segments": "true or false",
    "mask": "a whole number, 0 or more, or null",
    "suppressed": IDS,
    "suppressed_first": IDS,
    "language_in": '"source" or "target"',
    **dict.fromkeys(("source", "target", "length_penalty"), "a text"),
    "normalize": "a list of names",
}


@dataclass(frozen=True, kw_only=True)
class TextSettings:
    """The special ids and rules around the subwords of one model. ``text/marks.py`` puts them around ids.

    - a source: ``source_before``, ids, ``source_after``; of two texts ``pair_between`` stands between them, and with
      ``segments`` the second has segment 1;
    - a target: ``start``, ids, the first of ``ends``. Any of ``ends`` ends an output; a model may have none;
    - ``languages``: the ids of each target language, the last of ``source_before`` or of ``start`` (``language_in``);
    - ``mask``: the id that stands for a token to be filled in. ``suppressed`` ids are never produced,
      ``suppressed_first`` not as the first token of an output.

    ``max_length`` is the longest source, in subwords without marks, that the model has learnt; longer text is split
    before translation. ``length_penalty`` is the one with which the model was validated.
    """

    pad: int = 0
    unk: int = 1
    start: tuple[int, ...] = (2,)
    ends: tuple[int, ...] = (3,)
    source_before: tuple[int, ...] = ()
    source_after: tuple[int, ...] = (3,)
    pair_between: tuple[int, ...] = ()
    segments: bool = False
    mask: int | None = None
    suppressed: tuple[int, ...] = ()
    suppressed_first: tuple[int, ...] = ()
    languages: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    language_in: Literal["source", "target"] = "source"
    source: str = ""
    target: str = ""
    normalize: tuple[str, ...] = ("nfc",)
    max_length: int = 256
    length_penalty: str = "gnmt:0.6"

    def __post_init__(self) -> None:
        for name, expected in KINDS.items():
            _check(name, expected, getattr(self, name))
        if not isinstance(self.languages, Mapping) or not all(isinstance(name, str) for name in self.languages):
            raise RegardError(f"languages = {self.languages!r:.80}: expected ids by language")
        if len(self.languages) > limits.PREFIX_TOKENS:
            raise RegardError(f"languages: {len(self.languages):,}, expected at most {limits.PREFIX_TOKENS:,}")
        for name, ids in self.languages.items():
            _check(f"languages.{name:.40}", IDS, ids)
        if not _is_id(self.max_length) or not 1 <= self.max_length <= limits.LENGTH:
            raise RegardError(f"max_length = {self.max_length!r:.40}: expected 1 to {limits.LENGTH}")
        for name in self.normalize:
            if name not in KNOWN:
                hint = nearest(name, KNOWN)
                raise RegardError(f"normalize = {name!r:.100}: expected some of {', '.join(KNOWN)}{hint}")

    def ids(self, side: Literal["source", "target"]) -> dict[str, tuple[int, ...]]:
        """The special ids of one side's vocabulary, by key."""
        if side == "source":
            found = {name: getattr(self, name) for name in ("source_before", "source_after", "pair_between")}
            found |= {"unk": (self.unk,), "mask": () if self.mask is None else (self.mask,)}
        else:
            found = {name: getattr(self, name) for name in ("start", "ends", "suppressed", "suppressed_first")}
        if self.language_in == side:
            found |= {f"languages.{name}": ids for name, ids in self.languages.items()}
        return {"pad": (self.pad,), **found}

    @classmethod
    def read(cls, path: Path) -> TextSettings:
        """Read ``text.json`` of format 1 or 2; a fault is an error that names the file and the key."""
        values = _tuples(read_json(path))
        try:
            if _is_of_format_1(values):
                values = _of_format_1(values)
            _check_keys(values, [item.name for item in dataclasses.fields(cls)])
            return cls(**values)
        except RegardError as error:
            raise RegardError(f"{path}: {error}") from None

    def write(self, path: Path) -> None:
        """Write ``text.json`` of format 2: for use inside a folder that is written as a whole."""
        values: dict[str, Any] = dataclasses.asdict(self)
        write(path, (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode())


# The keys that format 1 alone has; a source ended with ``eos``, a target began with ``start`` and ``forced_prefix``.
FORMAT_1 = {"bos": ID, "eos": ID, "start": ID, "forced_prefix": IDS, "template": "a text"}
BOTH = ("pad", "unk", "suppressed", "source", "target", "normalize", "max_length", "length_penalty")


def _is_of_format_1(values: Mapping[str, Any]) -> bool:
    if "start" in values:
        return not isinstance(values["start"], tuple)
    return any(key in values for key in FORMAT_1)


def _of_format_1(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of format 2 that say the same."""
    _check_keys(values, [*BOTH, *FORMAT_1])
    old = {"eos": 3, "start": 2, "forced_prefix": (), **{key: values[key] for key in FORMAT_1 if key in values}}
    for key, value in old.items():
        _check(key, FORMAT_1[key], value)
    return {
        **{key: values[key] for key in BOTH if key in values},
        "start": (old["start"], *old["forced_prefix"]),
        "ends": (old["eos"],),
        "source_after": (old["eos"],),
    }


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON's lists as tuples, those of ``languages`` too."""
    found = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    if isinstance(languages := found.get("languages"), dict):
        found["languages"] = _tuples(languages)
    return found


def _check_keys(values: Mapping[str, Any], known: list[str]) -> None:
    for key in values:
        if key not in known:
            raise RegardError(f"unknown key {key!r:.100}{nearest(key, known)}")


def _check(name: str, expected: str, value: Any) -> None:
    """Raise unless ``value`` is what is ``expected``: one of the texts of ``KINDS``."""
    if expected == IDS:
        most = limits.SUPPRESSED if name.startswith("suppressed") else limits.PREFIX_TOKENS
        if isinstance(value, tuple) and len(value) > most:
            raise RegardError(f"{name} has {len(value):,} ids: expected at most {most:,}")
        good = isinstance(value, tuple) and all(map(_is_id, value))
    elif expected == "a list of names":
        good = isinstance(value, tuple) and all(isinstance(item, str) for item in value)
    elif expected == "true or false":
        good = isinstance(value, bool)
    elif expected == "a text":
        good = isinstance(value, str)
    elif name == "language_in":
        good = value in ("source", "target")
    else:
        good = _is_id(value) or (value is None and name == "mask")
    if not good:
        raise RegardError(f"{name} = {value!r:.80}: expected {expected}")


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
