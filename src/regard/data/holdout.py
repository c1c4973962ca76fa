"""Two text files become a training and a validation corpus: what is held out stands nowhere in what is trained on."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from regard.config import DataConfig
from regard.data.corpus import read_pairs
from regard.errors import RegardError
from regard.files import write_folder, writing


@dataclass(frozen=True)
class Split:
    """What ``hold_out`` wrote and saw: counts of pairs, and how often each character stands in both sides."""

    train: int
    valid: int
    characters: Counter[str]


def hold_out(entry: str, data: DataConfig, folder: Path, *, share: float = 0.01, most: int = 1000) -> Split:
    """Write ``train`` and ``valid`` with the endings of both languages into ``folder``.

    ``share`` of the pairs, at most ``most`` and at least one, are held out, chosen by a fixed seed. Pairs that have a
    side in common (duplicates, several translations of one sentence) stay together, on one side of the split.
    """
    groups, characters = _groups(entry, data)
    count = len(groups)
    wanted = max(1, min(most, round(count * share)))
    chosen = _choose(groups, wanted)
    if not chosen or len(chosen) == count:
        raise RegardError(
            f"{entry}: no pair can be held out for validation, since all of its {count} pairs share sides with others "
            "or are empty; write a configuration that names a validation corpus"
        )

    def write(inside: Path) -> None:
        languages = (data.source, data.target)
        with writing(folder):
            files = {
                (name, language): open(inside / f"{name}.{language}", "w", encoding="utf-8", newline="\n")
                for name in ("train", "valid")
                for language in languages
            }
            try:
                for index, pair in enumerate(read_pairs(entry, data)):
                    name = "valid" if index in chosen else "train"
                    for language, text in zip(languages, (pair.source, pair.target), strict=True):
                        files[name, language].write(text + "\n")
            finally:
                for file in files.values():
                    file.close()

    write_folder(folder, write, name="holdout")
    return Split(count - len(chosen), len(chosen), characters)


def _groups(entry: str, data: DataConfig) -> tuple[list[int], Counter[str]]:
    """For each pair the first pair that it is connected with by equal sides, or -1 where a side is empty."""
    parents: list[int] = []
    seen: dict[tuple[int, str], int] = {}
    characters: Counter[str] = Counter()

    def root(index: int) -> int:
        while parents[index] != index:
            parents[index] = parents[parents[index]]  # halve the path, so that chains stay short
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
    return groups, characters


def _choose(groups: list[int], wanted: int) -> set[int]:
    """Whole groups in a random order, as long as they fit into what is wanted."""
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
    return chosen


def languages_of(paths: Iterable[str]) -> Iterator[str]:
    """The languages that file names end with: ``corpus.zh.gz`` → ``zh``."""
    for path in paths:
        name = Path(path).name
        for ending in (".gz", ".xz", ".zst"):
            name = name.removesuffix(ending)
        _, dot, language = name.rpartition(".")
        yield language if dot else ""
