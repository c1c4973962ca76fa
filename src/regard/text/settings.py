"""The text settings of a model: ``text.json``, the only definition of its special ids and normalisation."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regard import limits
from regard.errors import RegardError, nearest
from regard.files import write
from regard.regular import read_json
from regard.text.normalize import KNOWN


@dataclass(frozen=True, kw_only=True)
class TextSettings:
    """The special ids and rules around the subwords of one model.

    A source is read as ``ids + [eos]``. A target is read as ``[start] + forced_prefix + ids`` and predicted as
    ``ids + [eos]``. ``suppressed`` ids are never produced. ``max_length`` is the longest source, in subwords without
    the end mark, that the model has learnt; longer text is split before translation. ``length_penalty`` is the one with
    which the model was validated.
    """

    pad: int = 0
    unk: int = 1
    bos: int = 2
    eos: int = 3
    start: int = 2
    forced_prefix: tuple[int, ...] = ()
    suppressed: tuple[int, ...] = ()
    source: str = ""
    target: str = ""
    normalize: tuple[str, ...] = ("nfc",)
    max_length: int = 256
    template: str = ""
    length_penalty: str = "gnmt:0.6"

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            _check(item.name, item.default, getattr(self, item.name))
        if not 1 <= self.max_length <= limits.LENGTH:
            raise RegardError(f"max_length = {self.max_length!r:.40}: expected 1 to {limits.LENGTH}")
        for name in self.normalize:
            if name not in KNOWN:
                hint = nearest(name, KNOWN)
                raise RegardError(f"normalize = {name!r:.100}: expected some of {', '.join(KNOWN)}{hint}")

    @classmethod
    def read(cls, path: Path) -> TextSettings:
        """Read ``text.json``; a fault is an error that names the file and the key."""
        values = read_json(path)
        known = [item.name for item in dataclasses.fields(cls)]
        for key in values:
            if key not in known:
                raise RegardError(f"{path}: unknown key {key!r:.100}{nearest(key, known)}")
        lists: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        try:
            return cls(**lists)
        except RegardError as error:
            raise RegardError(f"{path}: {error}") from None

    def write(self, path: Path) -> None:
        """Write ``text.json``: for use inside a folder that is written as a whole."""
        values: dict[str, Any] = dataclasses.asdict(self)
        write(path, (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode())


def _check(name: str, default: Any, value: Any) -> None:
    """Raise unless ``value`` has the default's kind: an id ≥ 0, a tuple of ids, a tuple of names, or a text."""
    if isinstance(default, int):
        good, expected = _is_id(value), "a whole number, 0 or more"
    elif isinstance(default, str):
        good, expected = isinstance(value, str), "a text"
    elif name == "normalize":
        good, expected = isinstance(value, tuple) and all(isinstance(item, str) for item in value), "a list of names"
    else:
        most = limits.SUPPRESSED if name == "suppressed" else limits.PREFIX_TOKENS
        if isinstance(value, tuple) and len(value) > most:
            raise RegardError(f"{name} has {len(value):,} ids: expected at most {most:,}")
        good, expected = isinstance(value, tuple) and all(_is_id(item) for item in value), "a list of ids"
    if not good:
        raise RegardError(f"{name} = {value!r:.80}: expected {expected}")


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
