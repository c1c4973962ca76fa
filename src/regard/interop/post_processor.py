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


def read_marks(processor: Any, segments: bool = False) -> Marks | None:
    """The marks of a post-processor of ``tokenizer.json``; None where it has none, an error for an unknown one.

    ``segments``: the model reads them, so that they must be ours: 0, or of a second text and the marks after it 1.
    """
    if processor is None:
        return None
    try:
        kind = processor["type"]
        if kind == "Sequence":
            found = [marks for each in processor["processors"] if (marks := read_marks(each, segments)) is not None]
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
            return _of_template(processor, segments)
    except RegardError as error:
        raise RegardError(f"{TOKENIZER}: post_processor: {error}") from None
    except (KeyError, TypeError, IndexError, ValueError, AttributeError):
        raise RegardError(f"{TOKENIZER}: post_processor: damaged: {processor!r:.60}") from None
    raise RegardError(f"{TOKENIZER}: post_processor: {kind!r:.60} is not one that regard reads")


def _of_template(processor: Any, reads_segments: bool) -> Marks:
    """The marks of a ``TemplateProcessing``, which lists the pieces of a text and of a pair."""
    specials = {name: tuple(map(_id, entry["ids"])) for name, entry in processor["special_tokens"].items()}

    def parts(template: Any, texts: list[str]) -> tuple[list[Ids], list[tuple[bool, int]]]:
        """The ids before, between and after the texts; of each piece whether it is a text, and its segment."""
        around: list[Ids] = [()]
        pieces: list[tuple[bool, int]] = []
        for piece in template:
            (kind, value), *more = piece.items()
            read = len(around) - 1
            if kind == "Sequence" and not more and read < len(texts) and value["id"] == texts[read]:
                around.append(())
            elif kind == "SpecialToken" and not more:
                around[-1] += specials[value["id"]]
            else:
                raise RegardError(f"{piece!r:.60}: expected special tokens and the texts {' and '.join(texts)}")
            pieces.append((kind == "Sequence", _id(value["type_id"])))
        if len(around) - 1 != len(texts):
            raise RegardError(f"expected the texts {' and '.join(texts)}")
        return around, pieces

    (before, after), single = parts(processor["single"], ["A"])
    (first, between, last), pair = parts(processor["pair"], ["A", "B"])
    second = max(number for number, (is_text, _) in enumerate(pair) if is_text)
    found, of_single = [segment for _, segment in pair], [segment for _, segment in single]
    with_segments = [int(number >= second) for number in range(len(pair))]
    if reads_segments and (any(of_single) or (any(found) and found != with_segments)):
        raise RegardError(
            f"type_id {of_single} of a text and {found} of a pair: expected 0, and 1 for a second text and what "
            "follows it, or 0 alone"
        )
    if first != before or last != after:
        return Marks(before, (), after)  # other marks around a pair: no task of ours reads such pairs
    return Marks(before, between, after, segments=bool(pair[second][1]))


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
