"""The labels of a classification: the distinct values of the training corpora, and checks of all others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from regard.data.columns import Column, Example
from regard.errors import RegardError, nearest

MOST = 10_000  # a column with more distinct values is taken for another one
WRONG_COLUMN = "is it the wrong column? name the label's with --label (data.label)"


def label_place(columns: Sequence[Column]) -> int | None:
    """The number of the label's column, from 0; None without one."""
    return next((place for place, column in enumerate(columns) if column.kind == "label"), None)


def count_labels(examples: Iterable[Example], columns: Sequence[Column]) -> Counter[str]:
    """The labels of training examples with their counts, sorted; empty where the columns have none.

    One label alone, or more than ``MOST``, are errors.
    """
    place, counts, where = label_place(columns), Counter[str](), ""
    if place is None:
        return counts
    for example in examples:
        counts[example.values[place]] += 1
        where = example.where
        if len(counts) > MOST:
            raise RegardError(f"{where}: more than {MOST:,} different labels: {WRONG_COLUMN}")
    if len(counts) == 1:
        raise RegardError(
            f"data.train: all {counts.total():,} examples have the label {next(iter(counts))!r:.60} (last: {where}): "
            "a classification needs at least two labels"
        )
    return Counter({label: counts[label] for label in sorted(counts)})


def check_survey(counts: Counter[str], name: str) -> None:
    """Raise for a corpus called ``name`` of several examples with one label, or with more than ``MOST``.

    ``count_labels`` finds the same; here the corpus is the user's file, before a part of it is held out.
    """
    if len(counts) > MOST:
        raise RegardError(f"{name}: {len(counts):,} different labels in {counts.total():,} examples: {WRONG_COLUMN}")
    if len(counts) == 1 < counts.total():
        raise RegardError(
            f"{name}: all {counts.total():,} examples have the label {next(iter(counts))!r:.60}: a classification "
            f"needs at least two labels; {WRONG_COLUMN}"
        )


def check_shared(counts: Counter[str], name: str) -> None:
    """Raise for a corpus called ``name`` of three or more examples, each with a label of its own.

    None of them can be held out.
    """
    if len(counts) == counts.total() > 2:
        raise RegardError(f"{name}: each of its {len(counts):,} examples has a label of its own: {WRONG_COLUMN}")


def described(counts: Mapping[str, int]) -> str:
    """One line with the number of labels and the first of them with their counts."""
    shown = [f"{label[:30]} ({count:,})" for label, count in list(counts.items())[:10]]
    more = f" and {len(counts) - 10:,} more" if len(counts) > 10 else ""
    return f"{len(counts):,} labels: {', '.join(shown)}{more}"


def check_labels(
    examples: Iterable[Example], columns: Sequence[Column], labels: Mapping[str, int], owner: str = "training data"
) -> None:
    """Raise for the first example whose label is none of ``labels``, which are those of their ``owner``."""
    place = label_place(columns)
    if place is not None:
        for example in examples:
            number_of(example.values[place], labels, example.where, owner)


def number_of(label: str, labels: Mapping[str, int], where: str, owner: str = "training data") -> int:
    """The number of a label; one that their ``owner`` does not have is an error."""
    number = labels.get(label)
    if number is None:
        some = ", ".join(name[:30] for name in list(labels)[:10]) + (", …" if len(labels) > 10 else "")
        raise RegardError(
            f"{where}: the label {label!r:.60} is none of the {len(labels):,} of the {owner}: expected one of "
            f"{some}{nearest(label, list(labels))}"
        )
    return number
