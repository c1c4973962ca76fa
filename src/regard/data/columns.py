"""The columns of a corpus: the parts of which an example consists, for each task, and where a file has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from regard.data.headers import SOURCE, TARGET, meaning
from regard.errors import RegardError

# The names by which a column without a key is found, the likeliest first; a second text is never guessed.
_NAMES: Mapping[str, tuple[str, ...]] = {
    "text": (
        "text", "sentence", "review", "content", "text_a", "comment", "document", "body",
        "文本", "句子", "内容", "內容", "评论", "評論",
    ),
    "label": (
        "label", "class", "category", "sentiment", "target", "labels", "polarity",
        "标签", "標籤", "类别", "類別", "分类", "分類",
    ),
}  # fmt: skip
# Columns that are neither, where the only other column is looked for.
_EXTRA = frozenset(
    ("id", "idx", "index", "no", "no.", "number", "line", "url", "domain", "split", "score", "license", "序号", "序號",
     "编号", "編號")
)  # fmt: skip


@dataclass(frozen=True)
class Column:
    """One column: ``name`` in messages and shards, the ``key`` that the user gave ("": to be found), its tokenizer.

    ``tokenizer`` is 1 for the text whose vocabulary may be one of its own (``data.joint = false``). The ids of a label
    are one id, its number among the labels.
    """

    name: str
    kind: Literal["text", "label"] = "text"
    key: str = ""
    tokenizer: Literal[0, 1] = 0


class Example(NamedTuple):
    """The values of one example, one for each column, and its place, "file:line"."""

    values: tuple[str, ...]
    where: str


def is_pairs(columns: Sequence[Column]) -> bool:
    """Whether these are the columns of a translation."""
    return [column.name for column in columns] == ["source", "target"]


def is_stream(columns: Sequence[Column]) -> bool:
    """Whether a corpus of these columns is read as one stream of ids: it has no second column."""
    return len(columns) == 1


def texts_of(example: Example, columns: Sequence[Column]) -> tuple[str, ...]:
    """The values of the text columns."""
    return tuple(value for value, column in zip(example.values, columns, strict=True) if column.kind == "text")


class Found(NamedTuple):
    """The place of each column among a file's names, and whether the first line holds names."""

    places: tuple[int, ...]
    named: bool


def find(
    names: Sequence[str], columns: Sequence[Column], by_key: Callable[[Column], int], *, named: bool
) -> Found | None:
    """The columns among the cells of a first line, or among the keys of an object; None if they are not found.

    A key decides (``by_key``), then a name, then being the only other one. Unless they are ``named``, the cells may be
    an example's. A column given by number says so, unless all such cells are names of their kind; then only a number or
    being the only other one finds the rest. Without a number the cells are names if one of them is known.
    """
    chosen = {number: by_key(column) for number, column in enumerate(columns) if column.key}
    named |= any(not columns[number].key.isdecimal() for number in chosen)
    named |= bool(chosen) and all(_fits(names[place], columns[number]) for number, place in chosen.items())
    may_be_named = named or not chosen
    for number, column in enumerate(columns):
        place = None if column.key else _guess(names, column)
        if place is not None and not may_be_named:
            return None  # a row by one column, names by the other: to be asked
        if place is not None:
            chosen[number], named = place, True
    missing = [number for number in range(len(columns)) if number not in chosen]
    others = [place for place in range(len(names)) if place not in chosen.values()]
    if len(others) > 1 and (named or not chosen):
        extra = [place for place in others if _plain(names[place]) in _EXTRA]
        others = [place for place in others if place not in extra]
        named |= any(_plain(names[place]) != "no" for place in extra)  # "no" may be an answer
    if len(missing) == len(others) == 1 and (chosen or len(columns) == 1):
        chosen[missing[0]] = others[0]
    places = tuple(chosen[number] for number in sorted(chosen))
    return Found(places, named) if len(set(places)) == len(columns) else None


def suggested(names: Sequence[str]) -> str:
    """The task that names of columns suggest: classification, language_model, or "" for none.

    A source beside a target, or a translation, is a pair and no text with its label. Several columns of one label's
    name suggest a classification too, which asks for the one.
    """
    meanings = [meaning(name, ("", "")) for name in names]
    label, text = _guess(names, Column("label", "label")), _guess(names, Column("text"))
    sides = {meanings[place] for place in range(len(names)) if place != text}
    if label is not None and not (meanings[label] == TARGET and SOURCE in sides):
        return "classification"
    labels = [name for name in names if _fits(name, Column("label"))]
    if text is not None and len(labels) > 1 and SOURCE not in sides:
        return "classification"
    return "language_model" if text is not None and not sides & {SOURCE, TARGET} else ""


def not_found(names: Sequence[str], columns: Sequence[Column], where: str, what: str) -> RegardError:
    """The error for a file whose columns are not found; ``what``: "columns", which have numbers, or "keys"."""
    shown = [name[:30] for name in names[:9]]
    listed = ", ".join(f"{number} {name!r}" if what == "columns" else repr(name) for number, name in enumerate(shown))
    wanted = [column.name for column in columns if not column.key and _guess(names, column) is None]
    wanted = wanted or [column.name for column in columns]
    which = f"which of these {what} {'is' if len(wanted) == 1 else 'are'} the {' and the '.join(wanted)}?"
    return RegardError(
        f"{where}: {which} {listed}; "
        f"say it by name{' or number' * (what == 'columns')}, with {' and '.join(f'--{name}' for name in wanted)} "
        f"({', '.join(f'data.{name}' for name in wanted)})"
    )


def _guess(names: Sequence[str], column: Column) -> int | None:
    """The place of a column by its likeliest name; None if there is no such name, or two columns have it."""
    plain = [_plain(name) for name in names]
    likeliest = next((known for known in _NAMES.get(column.name, ()) if known in plain), None)
    return plain.index(likeliest) if likeliest is not None and plain.count(likeliest) == 1 else None


def _fits(name: str, column: Column) -> bool:
    return _plain(name) in _NAMES.get(column.name, ())


def _plain(name: str) -> str:
    """A column's name for comparison: without spaces, quotation marks, ``#`` and case."""
    return name.strip().strip('"').lstrip("#").strip().casefold()
