"""Divides a corpus into training and validation examples, so that no held-out text stands in the training examples."""

from __future__ import annotations

import contextlib
import json
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from regard.config import DataConfig
from regard.data.columns import Column, is_pairs, texts_of
from regard.data.corpus import named
from regard.data.examples import files_of, read_examples
from regard.data.labels import check_shared, check_survey, label_place
from regard.data.reading import bare
from regard.errors import RegardError
from regard.files import write_folder
from regard.schema import Entry

SHARE, LARGE_SHARE, MOST = 0.1, 0.01, 1000  # held out of labelled texts and documents; of pairs; at most


class Split(Protocol):
    """A corpus divided into training and validation data, not written yet."""

    @property
    def files(self) -> list[str]:
        """The files of the corpus."""
        ...

    def places(self, folder: Path) -> tuple[str, str]:
        """The names of both corpora once they are written into ``folder``: ``data.train`` and ``data.valid``."""
        ...

    def write(self, folder: Path) -> None:
        """Write both into ``folder``."""
        ...

    def described(self) -> str:
        """The sizes of both in words."""
        ...


@dataclass(frozen=True)
class ExampleSplit:
    """A corpus of ``count`` examples, of which those with the numbers ``held_out``, from 0, are for validation."""

    entry: Entry
    data: DataConfig
    count: int
    held_out: frozenset[int]
    columns: tuple[Column, ...]

    @property
    def train(self) -> int:
        """The number of training examples."""
        return self.count - len(self.held_out)

    @property
    def files(self) -> list[str]:
        return files_of(self.entry, self.data, self.columns)

    def described(self) -> str:
        unit = "pairs" if is_pairs(self.columns) else "texts"
        return f"{self.train:,} {unit} to train on, {len(self.held_out):,} held out"

    def places(self, folder: Path) -> tuple[str, str]:
        ending = "" if is_pairs(self.columns) else ".jsonl"
        return str(folder / f"train{ending}"), str(folder / f"valid{ending}")

    def write(self, folder: Path) -> None:
        """Write ``train`` and ``valid``: a file for each language, or one of JSON lines."""
        write_folder(folder, self._write_pairs if is_pairs(self.columns) else self._write_objects, name="holdout")

    def _write_pairs(self, inside: Path) -> None:
        languages = (self.data.source, self.data.target)
        with contextlib.ExitStack() as stack:
            files = {
                (held_out, language): stack.enter_context(_opened(inside / f"{name}.{language}"))
                for held_out, name in ((False, "train"), (True, "valid"))
                for language in languages
            }
            for index, example in enumerate(read_examples(self.entry, self.data, self.columns)):
                for language, text in zip(languages, example.values, strict=True):
                    # A line feed inside a JSONL text would shift all lines after it.
                    files[index in self.held_out, language].write(text.replace("\n", " ") + "\n")

    def _write_objects(self, inside: Path) -> None:
        # The keys are those by which the configuration finds the columns, in a test corpus too.
        keys = [column.key or column.name for column in self.columns]
        with _opened(inside / "train.jsonl") as train, _opened(inside / "valid.jsonl") as valid:
            for index, example in enumerate(read_examples(self.entry, self.data, self.columns)):
                line = json.dumps(dict(zip(keys, example.values, strict=True)), ensure_ascii=False)
                (valid if index in self.held_out else train).write(line + "\n")


def _opened(path: Path) -> IO[str]:
    return open(path, "w", encoding="utf-8", newline="\n")


@dataclass(frozen=True)
class Survey:
    """The characters of a corpus, and the group of each example.

    Pairs with a side in common (duplicates, several translations of one sentence) are one group, numbered by its first
    pair; so are examples with the same text. -1 stands for examples with an empty text.
    """

    entry: Entry
    data: DataConfig
    groups: list[int]
    characters: Counter[str]  # counts, all texts together
    columns: tuple[Column, ...]
    labels: tuple[str, ...] = ()  # of each example, where there are labels

    @property
    def size(self) -> int:
        """The number of examples."""
        return len(self.groups)

    def hold_out(self, *, share: float = 0.0, most: int = MOST) -> ExampleSplit:
        """Hold out ``share`` of the examples, 1 to ``most``, chosen with a fixed seed; no group is divided.

        Without a share that is 1 % of pairs and 10 % of others, the same share of each label.
        """
        count = len(self.groups)
        unit = "pair" if is_pairs(self.columns) else "text"
        if all(group < 0 for group in self.groups):
            raise RegardError(
                f"{named(self.entry)}: none of {count:,} pairs has text on both sides"
                if is_pairs(self.columns)
                else f"{named(self.entry)}: none of {count:,} examples has text"
            )
        check_shared(Counter(self.labels), named(self.entry))
        share = share or (LARGE_SHARE if is_pairs(self.columns) else SHARE)
        chosen = _choose(self.groups, max(1, min(most, round(count * share))), self.labels)
        if not chosen or len(chosen) == count:
            raise RegardError(
                f"{named(self.entry)}: no {unit} of {count:,} can be held out for validation without its like staying "
                "in training; name a validation corpus with --valid"
            )
        return ExampleSplit(self.entry, self.data, count, frozenset(chosen), self.columns)


def survey(entry: Entry, data: DataConfig, columns: Sequence[Column]) -> Survey:
    """Read a corpus, check its labels and group its examples (union-find over equal texts)."""
    parents: list[int] = []
    seen: dict[tuple[int, str], int] = {}
    characters: Counter[str] = Counter()
    place, labels = label_place(columns), []

    def root(index: int) -> int:
        while parents[index] != index:
            parents[index] = parents[parents[index]]  # path halving
            index = parents[index]
        return index

    empty = []
    for index, example in enumerate(read_examples(entry, data, columns)):
        parents.append(index)
        if place is not None:
            labels.append(example.values[place])
        sides = [text.strip() for text in texts_of(example, columns)]
        if not all(sides):
            empty.append(index)
            continue
        for text in sides:
            characters.update(text)
        for side, text in enumerate(sides if is_pairs(columns) else ["\0".join(sides)]):
            first, here = root(seen.setdefault((side, text), index)), root(index)
            parents[max(first, here)] = min(first, here)
    check_survey(Counter(labels), named(entry))
    groups = [root(index) for index in range(len(parents))]
    for index in empty:
        groups[index] = -1
    return Survey(entry, data, groups, characters, tuple(columns), tuple(labels))


def _choose(groups: list[int], wanted: int, labels: Sequence[str] = ()) -> set[int]:
    """Random whole groups, at most ``wanted`` examples; if none fits, the smallest one of at most a tenth of all.

    With ``labels`` each has its share of those wanted, and never all examples of a label are chosen.
    """
    members: dict[int, list[int]] = {}
    for index, group in enumerate(groups):
        if group >= 0:
            members.setdefault(group, []).append(index)
    label_of = labels or [""] * len(groups)
    left = Counter(label_of[index] for listed in members.values() for index in listed)
    room = _shares(left, wanted)
    order = sorted(members)
    random.Random(1).shuffle(order)
    chosen: set[int] = set()
    for group in order:
        taken = Counter(label_of[index] for index in members[group])
        if all(count <= room[label] and (count < left[label] or not labels) for label, count in taken.items()):
            chosen.update(members[group])
            for label, count in taken.items():
                room[label] -= count
                left[label] -= count
    if not chosen and order and not labels:
        smallest = min(order, key=lambda group: len(members[group]))
        chosen.update(members[smallest] if len(members[smallest]) <= len(groups) // 10 else ())
    return chosen


def _shares(counts: Counter[str], wanted: int) -> dict[str, int]:
    """``wanted`` divided in proportion to the counts, by largest remainders."""
    exact = {label: wanted * count / counts.total() for label, count in counts.items()}
    shares = {label: int(share) for label, share in exact.items()}
    by_rest = sorted(exact, key=lambda label: (shares[label] - exact[label], label))
    for label in by_rest[: wanted - sum(shares.values())]:
        shares[label] += 1
    return shares


def languages_of(paths: Iterable[str]) -> Iterator[str]:
    """The languages by the endings of file names: ``corpus.zh.gz`` → ``zh``."""
    for path in paths:
        name = bare(Path(path).name.strip())
        _, dot, language = name.rpartition(".")
        yield language.strip() if dot else ""
