"""The post-processor of a ``tokenizer.json``, which puts marks around texts, as our marks, and back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from regard.directory import TOKENIZER
from regard.errors import RegardError
from regard.text.settings import TextSettings

Ids = tuple[int, ...]


@dataclass(frozen=True)
class Marks:
    """What stands before, between and after texts; ``segments``: the second text of a pair has segment 1."""

    before: Ids = ()
    between: Ids = ()
    after: Ids = ()
    segments: bool = False


def read_marks(processor: Any) -> Marks | None:
    """The marks of a post-processor of ``tokenizer.json``; None where it has none, an error for an unknown one."""
    if processor is None:
        return None
    try:
        kind = processor["type"]
        if kind == "Sequence":
            found = [marks for each in processor["processors"] if (marks := read_marks(each)) is not None]
            if len(found) > 1:
                raise RegardError("two post-processors that put marks around a text")
            return found[0] if found else None
        if kind == "ByteLevel":
            return None
        if kind in ("BertProcessing", "RobertaProcessing"):
            first, last = _id(processor["cls"][1]), _id(processor["sep"][1])
            bert = kind == "BertProcessing"
            return Marks((first,), (last,) if bert else (last, last), (last,), segments=bert)
        if kind == "TemplateProcessing":
            return _of_template(processor)
    except RegardError as error:
        raise RegardError(f"{TOKENIZER}: post_processor: {error}") from None
    except (KeyError, TypeError, IndexError, ValueError, AttributeError):
        raise RegardError(f"{TOKENIZER}: post_processor: damaged: {processor!r:.60}") from None
    raise RegardError(f"{TOKENIZER}: post_processor: {kind!r:.60} is not one that regard reads")


def _of_template(processor: Any) -> Marks:
    """The marks of a ``TemplateProcessing``, which lists the pieces of a text and of a pair."""
    specials = {name: tuple(map(_id, entry["ids"])) for name, entry in processor["special_tokens"].items()}

    def parts(template: Any, texts: list[str]) -> tuple[list[Ids], list[int]]:
        """The ids before, between and after the texts, and the segment of each text."""
        around: list[Ids] = [()]
        segments: list[int] = []
        for piece in template:
            (kind, value), *more = piece.items()
            if kind == "Sequence" and not more and len(segments) < len(texts) and value["id"] == texts[len(segments)]:
                around.append(())
                segments.append(value["type_id"])
            elif kind == "SpecialToken" and not more:
                around[-1] += specials[value["id"]]
            else:
                raise RegardError(f"{piece!r:.60}: expected special tokens and the texts {' and '.join(texts)}")
        if len(segments) != len(texts):
            raise RegardError(f"expected the texts {' and '.join(texts)}")
        return around, segments

    (before, after), _ = parts(processor["single"], ["A"])
    (first, between, last), segments = parts(processor["pair"], ["A", "B"])
    if first != before or last != after:
        return Marks(before, (), after)  # other marks around a pair: no task of ours reads such pairs
    return Marks(before, between, after, segments=segments == [0, 1])


def _id(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise RegardError(f"{value!r:.40}: expected an id")
    return value


def post_processor(settings: TextSettings, task: str, token: Callable[[int], str]) -> dict[str, Any] | None:
    """The post-processor of their ``tokenizer.json``, which puts our marks around texts; None without marks."""
    continues = task == "language_model"
    before, after = (settings.start, ()) if continues else (settings.source_before, settings.source_after)
    between = () if continues else settings.pair_between
    if not before and not after and not between:
        return None

    def marks(ids: Ids, segment: int) -> list[dict[str, Any]]:
        return [{"SpecialToken": {"id": token(number), "type_id": segment}} for number in ids]

    def text(name: str, segment: int) -> dict[str, Any]:
        return {"Sequence": {"id": name, "type_id": segment}}

    second = int(settings.segments)
    return {
        "type": "TemplateProcessing",
        "single": [*marks(before, 0), text("A", 0), *marks(after, 0)],
        "pair": [
            *marks(before, 0), text("A", 0), *marks(between, 0), text("B", second), *marks(after, second),
        ],
        "special_tokens": {
            token(number): {"id": token(number), "ids": [number], "tokens": [token(number)]}
            for number in (*before, *between, *after)
        },
    }  # fmt: skip
