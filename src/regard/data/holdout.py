"""Divides a corpus into training and validation pairs, so that no held-out sentence stands in the training pairs."""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from regard.config import DataConfig
from regard.data.corpus import named, read_pairs
from regard.data.reading import bare
from regard.errors import RegardError
from regard.files import write_folder
from regard.schema import Entry


@dataclass(frozen=True)
class Split:
    """The held-out pairs of a corpus, by number from 0."""

    entry: Entry
    data: DataConfig
    pairs: int
    held_out: frozenset[int]

    @property
    def train(self) -> int:
        """The number of training pairs."""
        return self.pairs - len(self.held_out)

    def write(self, folder: Path) -> None:
        """Write ``train.SOURCE``, ``train.TARGET``, ``valid.SOURCE`` and ``valid.TARGET`` into ``folder``."""
        write_folder(folder, self._fill, name="holdout")

    def _fill(self, inside: Path) -> None:
        languages = (self.data.source, self.data.target)
        with contextlib.ExitStack() as stack:
            files = {
                (held_out, language): stack.enter_context(
                    open(inside / f"{name}.{language}", "w", encoding="utf-8", newline="\n")
                )
                for held_out, name in ((False, "train"), (True, "valid"))
                for language in languages
            }
            for index, pair in enumerate(read_pairs(self.entry, self.data)):
                for language, text in zip(languages, (pair.source, pair.target), strict=True):
                    # A line feed inside a JSONL text would shift all lines after it.
                    files[index in self.held_out, language].write(text.replace("\n", " ") + "\n")


@dataclass(frozen=True)
class Survey:
    """The characters of a corpus, and the group of each pair.

    Pairs with a side in common (duplicates, several translations of one sentence) are one group, numbered by its first
    pair; -1 for pairs with an empty side.
    """

    entry: Entry
    data: DataConfig
    groups: list[int]
    characters: Counter[str]  # counts, both sides together

    def hold_out(self, *, share: float = 0.01, most: int = 1000) -> Split:
        """Hold out ``share`` of the pairs, 1 to ``most``, chosen with a fixed seed; no group is divided."""
        pairs = len(self.groups)
        if all(group < 0 for group in self.groups):
            raise RegardError(f"{named(self.entry)}: none of {pairs:,} pairs has text on both sides")
        chosen = _choose(self.groups, wanted=max(1, min(most, round(pairs * share))))
        if not chosen or len(chosen) == pairs:
            raise RegardError(
                f"{named(self.entry)}: no pair of {pairs:,} can be held out for validation without its like staying in "
                "training; name a validation corpus with --valid"
            )
        return Split(self.entry, self.data, pairs, frozenset(chosen))


def survey(entry: Entry, data: DataConfig) -> Survey:
    """Read a corpus and group its pairs (union-find over equal sides)."""
    parents: list[int] = []
    seen: dict[tuple[int, str], int] = {}
    characters: Counter[str] = Counter()

    def root(index: int) -> int:
        while parents[index] != index:
            parents[index] = parents[parents[index]]  # path halving
            index = parents[index]
        return index

    empty = []
    for index, pair in enumerate(read_pairs(entry, data)):
        parents.append(index)
        sides = (pair.source.strip(), pair.target.strip())
        if not all(sides):
            empty.append(index)
            continue
        for side, text in enumerate(sides):
            characters.update(text)
            first, here = root(seen.setdefault((side, text), index)), root(index)
            parents[max(first, here)] = min(first, here)
    groups = [root(index) for index in range(len(parents))]
    for index in empty:
        groups[index] = -1
    return Survey(entry, data, groups, characters)


def _choose(groups: list[int], wanted: int) -> set[int]:
    """Random whole groups, at most ``wanted`` pairs; if none fits, the smallest one of at most a tenth of all pairs."""
    members: dict[int, list[int]] = {}
    for index, group in enumerate(groups):
        if group >= 0:
            members.setdefault(group, []).append(index)
    order = sorted(members)
    random.Random(1).shuffle(order)
    chosen: set[int] = set()
    for group in order:
        if len(chosen) + len(members[group]) <= wanted:
            chosen.update(members[group])
    if not chosen and order:
        smallest = min(order, key=lambda group: len(members[group]))
        chosen.update(members[smallest] if len(members[smallest]) <= len(groups) // 10 else ())
    return chosen


def languages_of(paths: Iterable[str]) -> Iterator[str]:
    """The languages by the endings of file names: ``corpus.zh.gz`` → ``zh``."""
    for path in paths:
        name = bare(Path(path).name.strip())
        _, dot, language = name.rpartition(".")
        yield language.strip() if dot else ""
