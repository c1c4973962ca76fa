"""The steps that a ``tokenizer.json`` may have: closed tables of normalizers, pre-tokenizers and decoders.

Each row lists the keys of one kind with a check of their values. The library accepts more: patterns that never end,
replacements that turn a thousand characters into billions, numbers on which it panics. ``growth`` is the largest factor
by which a kind lengthens a text; the product over all steps is bounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from regard.errors import RegardError, nearest
from regard.text.patterns import charsmap, replaces, splits
from regard.text.words import our_start

STEPS = 16  # at most, in each of the three places
NESTED = 3  # levels of nested sequences
LONGEST = 16  # characters that one step may insert
GROWTH = 1024  # at most, normalizers and pre-tokenizers together; ALBERT's have 972
REPLACED = 4  # at most, all replacements together

Check = Callable[[Any], bool]


def flag(value: Any) -> bool:
    return isinstance(value, bool)


def maybe_flag(value: Any) -> bool:
    return value is None or isinstance(value, bool)


def sign(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 1


def short(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= LONGEST


def something(value: Any) -> bool:
    return short(value) and value != ""


def one_of(*choices: str) -> Check:
    return lambda value: isinstance(value, str) and value in choices


def between(least: int, most: int) -> Check:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def pattern(regular: Check) -> Check:
    """A check for {"String": non-empty text} or {"Regex": a pattern that ``regular`` accepts}."""

    def check(value: Any) -> bool:
        if not isinstance(value, dict) or len(value) != 1:
            return False
        (kind, text), *_ = value.items()
        if not isinstance(text, str):
            return False
        return 0 < len(text) <= LONGEST if kind == "String" else kind == "Regex" and regular(text)

    return check


@dataclass(frozen=True)
class Kind:
    """The keys of one kind with checks of their values, and the largest factor by which it lengthens a text."""

    keys: Mapping[str, Check] = field(default_factory=dict)
    growth: int = 1


BEHAVIORS = one_of("Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous")
METASPACE = {
    "replacement": sign,
    "add_prefix_space": flag,
    "prepend_scheme": one_of("always", "never", "first"),
    "split": flag,
    "str_rep": sign,
}
BYTE_LEVEL = {"add_prefix_space": flag, "trim_offsets": flag, "use_regex": flag}
REPLACE = {"pattern": pattern(replaces), "content": short}

NORMALIZERS = {
    "NFC": Kind(growth=3),
    "NFD": Kind(growth=4),
    "NFKC": Kind(growth=18),
    "NFKD": Kind(growth=18),
    "Nmt": Kind(),
    "Lowercase": Kind(growth=3),
    "StripAccents": Kind(),
    "Strip": Kind({"strip_left": flag, "strip_right": flag}),
    "Prepend": Kind({"prepend": something}),  # with an empty text the library panics in the next step
    "Replace": Kind(REPLACE),
    "BertNormalizer": Kind(
        {"clean_text": flag, "handle_chinese_chars": flag, "strip_accents": maybe_flag, "lowercase": flag}, growth=12
    ),
    "ByteLevel": Kind(growth=4),
    "Precompiled": Kind({"precompiled_charsmap": charsmap}, growth=18),
}
PRE_TOKENIZERS = {
    "Split": Kind({"pattern": pattern(splits), "behavior": BEHAVIORS, "invert": flag}),
    "Whitespace": Kind(),
    "WhitespaceSplit": Kind(),
    "BertPreTokenizer": Kind(),
    "Metaspace": Kind(METASPACE, growth=2),
    "ByteLevel": Kind(BYTE_LEVEL, growth=4),
    "CharDelimiterSplit": Kind({"delimiter": sign}),
    "Digits": Kind({"individual_digits": flag}),
    "Punctuation": Kind({"behavior": BEHAVIORS}),
    "UnicodeScripts": Kind(),
}
DECODERS = {
    "Replace": Kind(REPLACE),
    "ByteFallback": Kind(),
    "Fuse": Kind(),
    "Strip": Kind({"content": sign, "start": between(0, LONGEST), "stop": between(0, 0)}),
    "ByteLevel": Kind(BYTE_LEVEL),
    "Metaspace": Kind(METASPACE),
    "WordPiece": Kind({"prefix": short, "cleanup": flag}),
    "BPEDecoder": Kind({"suffix": short}),
}
PLACES = {
    "normalizer": (NORMALIZERS, "normalizers"),
    "pre_tokenizer": (PRE_TOKENIZERS, "pretokenizers"),
    "decoder": (DECODERS, "decoders"),
}


def check_steps(description: Mapping[str, Any]) -> None:
    """Raise a RegardError for the first step that is not in the tables."""
    found = {place: _flat(place, description.get(place), 0) for place in PLACES}
    growth = 1.0
    for place, steps in found.items():
        if len(steps) > STEPS:
            _refuse(place, f"{len(steps)} steps, expected at most {STEPS}")
        kinds = [_checked(place, step) for step in steps]
        growth *= math.prod(kind.growth for kind in kinds) if place != "decoder" else 1
        replaced = math.prod(map(_replacement, steps))
        if replaced > REPLACED:
            _refuse(place, f"its replacements make a text {replaced:g} times longer, expected at most {REPLACED} times")
    if growth > GROWTH:
        _refuse("normalizer", f"together with pre_tokenizer it makes a text {growth:g} times longer, at most {GROWTH}")
    _check_start(found["normalizer"], found["pre_tokenizer"])


def without_start(description: Mapping[str, Any]) -> dict[str, Any]:
    """The description without what it puts before a text: for a text that goes on where another ends."""
    places = {place: _going_on(description.get(place)) for place in ("normalizer", "pre_tokenizer")}
    return {**description, **places}


def _going_on(step: Any) -> Any:
    """A step without the part that puts something before a text; None if it does nothing else."""
    kind = step["type"] if step else "Prepend"
    if kind == "Prepend":
        return None
    if kind == "Sequence":
        key = "normalizers" if "normalizers" in step else "pretokenizers"
        return {**step, key: [kept for kept in map(_going_on, step[key]) if kept]}
    if kind == "Metaspace":
        return {**{key: value for key, value in step.items() if key != "add_prefix_space"}, "prepend_scheme": "never"}
    return {**step, "add_prefix_space": False} if kind == "ByteLevel" and "add_prefix_space" in step else step


def _check_start(normalizers: list[dict[str, Any]], pre_tokenizers: list[dict[str, Any]]) -> None:
    """Raise if a step follows that inserts regard's ▁ at the start of a text: the library panics on some such steps."""
    after = [step["type"] for step in pre_tokenizers if step["type"] != "Split"]
    for number, step in enumerate(normalizers, 1):
        starts = step["type"] == "Replace" and our_start(str(step["pattern"].get("Regex", "")))
        if starts and (number < len(normalizers) or after):
            _refuse("normalizer", "what is put before a text must be put there last, and be followed by a Split alone")


def _flat(place: str, step: Any, depth: int) -> list[dict[str, Any]]:
    """The steps of a place as one list, without nested sequences."""
    if step is None:
        return []
    if not isinstance(step, dict) or not isinstance(step.get("type"), str):
        _refuse(place, "expected a table with 'type'")
    if step["type"] != "Sequence":
        return [step]
    listed = step.get(PLACES[place][1])
    if set(step) != {"type", PLACES[place][1]} or not isinstance(listed, list) or depth >= NESTED:
        _refuse(place, f"expected of a Sequence a list '{PLACES[place][1]}', {NESTED} deep at most")
    return [inner for item in listed if item is not None for inner in _flat(place, item, depth + 1)]


def _checked(place: str, step: Mapping[str, Any]) -> Kind:
    table, _ = PLACES[place]
    name = step["type"]
    if name not in table:
        _refuse(place, f"{name!r:.60} is not one that regard runs{nearest(name, table)}; known: {', '.join(table)}")
    kind = table[name]
    for key, value in step.items():
        if key == "type":
            continue
        if key not in kind.keys:
            _refuse(place, f"{name} has no key {key!r:.60}{nearest(key, kind.keys)}")
        if not kind.keys[key](value):
            advice = (
                ": only those of published tokenizers are run" if key in ("pattern", "precompiled_charsmap") else ""
            )
            _refuse(place, f"{name} cannot have {key} = {value!r:.60}{advice}")
    if name == "Replace" and len(step) < 3:
        _refuse(place, "Replace needs 'pattern' and 'content'")
    return kind


def _replacement(step: Mapping[str, Any]) -> float:
    """The largest factor by which a replacement lengthens a text; a regular expression may match one character."""
    if step["type"] != "Replace":
        return 1.0
    return max(1.0, len(step["content"]) / len(step["pattern"].get("String", "x")))


def _refuse(place: str, reason: str) -> NoReturn:
    raise RegardError(f"{place}: {reason}")
