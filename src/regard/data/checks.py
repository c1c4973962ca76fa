"""Checks of a corpus: faults are counted by kind, with the place of the first."""

from __future__ import annotations

import hashlib
import re
from array import array
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np


class Sides(Protocol):
    """An example: its sides, which are compared, and its place."""

    @property
    def values(self) -> tuple[str, ...]: ...
    @property
    def where(self) -> str: ...


# Kind of fault → its words in the report.
KINDS = {
    "empty": "with an empty side",
    "too_long": "longer than data.max_length",
    "overlap": "found in the validation or test data",
    "identical": "identical on both sides",
    "misaligned": "with sides of very different length",
    "duplicate": "equal to an earlier {unit}",
}
# The same where an example is not a pair.
OTHERS = {"empty": "without text"}
ADVICE = {"overlap": "data.remove_overlap = true leaves them out"}


@dataclass
class Report:
    """Counts of a corpus: ``examples`` read, ``left_out`` of training, and (count, first place) of each kind of fault.

    Kinds in ``removed`` are left out of training; ``overlap`` has the counts of each evaluation corpus.
    """

    examples: int = 0
    left_out: int = 0
    found: dict[str, tuple[int, str]] = field(default_factory=dict)
    overlap: dict[str, tuple[int, str]] = field(default_factory=dict)
    removed: tuple[str, ...] = ("empty", "too_long")
    unit: str = "pair"  # the name of an example

    def note(self, kind: str, where: str, count: int = 1) -> None:
        """Count a fault; only the place of the first of its kind is kept."""
        before, first = self.found.get(kind, (0, where))
        self.found[kind] = (before + count, first)

    def lines(self) -> list[str]:
        """The report as lines to print; one line if there are no faults."""
        lines = [
            f"{self.examples:,} {self.unit}{'s' * (self.examples != 1)} read, "
            f"{self.examples - self.left_out:,} to train on"
        ]
        for kind, words in KINDS.items():
            if kind not in self.found:
                continue
            count, first = self.found[kind]
            fate = "left out" if kind in self.removed else "kept"
            advice = f"; {ADVICE[kind]}" if kind in ADVICE and kind not in self.removed else ""
            if self.unit != "pair":
                words = OTHERS.get(kind, words)
            shown = f"{self.unit}{'s' * (count != 1)} {words.format(unit=self.unit)}"
            lines.append(f"{count:,} {shown}: {fate} (first: {first}{advice})")
        sentence = "sentence" if self.unit == "pair" else self.unit
        for name, (count, first) in self.overlap.items():
            where = "train as it was read" if "overlap" in self.removed else "train"
            lines.append(f"{count:,} {sentence}{'s' * (count != 1)} of {name} found in {where} ({first})")
        return lines

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {
            "pairs": self.examples,
            "left_out": self.left_out,
            "found": {kind: list(value) for kind, value in self.found.items()},
            "overlap": {name: list(value) for name, value in self.overlap.items()},
            "removed": list(self.removed),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], unit: str = "pair") -> Report:
        """The report from the values of ``as_dict``."""
        found = {kind: (int(count), str(first)) for kind, (count, first) in values["found"].items()}
        overlap = {name: (int(count), str(first)) for name, (count, first) in values["overlap"].items()}
        return cls(int(values["pairs"]), int(values["left_out"]), found, overlap, tuple(values["removed"]), unit)


class _Place(NamedTuple):
    corpus: str
    where: str


class Overlap:
    """Finds sentences of the evaluation data in the training data.

    A sentence is found if the same side of a training example equals it after normalisation and stripping. The sides
    of a pair are its two sentences; the texts that are classified together are one side.
    """

    def __init__(self, normalize: Callable[[str], str]) -> None:
        self._normalize = normalize
        self._places: dict[tuple[int, str], list[_Place]] = {}  # by side and text
        self._met: dict[str, dict[str, str]] = {}

    def expect(self, name: str, examples: Iterable[Sides]) -> None:
        """Add an evaluation corpus, called ``name`` in the report; the values of its examples are the sides."""
        for example in examples:
            for key in self._keys(example):
                if key[1]:
                    self._places.setdefault(key, []).append(_Place(name, example.where))

    def meets(self, example: Sides) -> str:
        """The first place in the evaluation data with a side of this training example, or ""; all are counted."""
        if not self._places:
            return ""
        first = ""
        for key in self._keys(example):
            for place in self._places.get(key, ()):
                first = first or place.where
                self._met.setdefault(place.corpus, {}).setdefault(place.where, example.where)
        return first

    def _keys(self, example: Sides) -> list[tuple[int, str]]:
        return [(side, self._normalize(text).strip()) for side, text in enumerate(example.values)]

    def found(self) -> dict[str, tuple[int, str]]:
        """For each evaluation corpus: the number of its examples with a side that training has, and the first place."""
        report = {}
        for name, places in self._met.items():
            where, trained = next(iter(places.items()))
            report[name] = (len(places), f"first: {trained} = {where}")
        return report


class Duplicates:
    """Finds examples that repeat an earlier one, from a hash of eight bytes each."""

    def __init__(self) -> None:
        self._keys = array("Q")

    def add(self, *values: str) -> None:
        """Add an example (64 bits of a hash: among a million, two collide with a chance of 3e-8)."""
        digest = hashlib.blake2b("\0".join(values).encode(), digest_size=8).digest()
        self._keys.append(int.from_bytes(digest, "little"))

    def found(self) -> tuple[int, int]:
        """The number of examples that repeat an earlier one, and the index of the first (-1: none)."""
        keys = np.frombuffer(self._keys, dtype=np.uint64)
        _, first = np.unique(keys, return_index=True)
        repeated = np.ones(len(keys), dtype=bool)
        repeated[first] = False
        count = int(repeated.sum())
        return count, int(repeated.argmax()) if count else -1


_VISIBLE = re.compile("[^\\s\x00-\x1f\xad\u200b-\u200f\u2060\ufeff]")


def has_text(*sides: str) -> bool:
    """Whether every side has a visible character: not only spaces, controls and characters without width."""
    return all(map(_VISIBLE.search, sides))


def misaligned(source: int, target: int, ratio: float) -> bool:
    """Whether one side has more than ``ratio`` times the subwords of the other, and more than 8 more."""
    return max(source, target) > ratio * min(source, target) and abs(source - target) > 8
