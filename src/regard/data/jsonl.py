"""JSON lines: an object a line, and the values under its keys."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from regard.data.reading import read_lines
from regard.errors import RegardError
from regard.regular import each_once
from regard.surrogates import has_half

ENDINGS = (".jsonl", ".ndjson")
MISSING = object()


def objects(path: str) -> Iterator[tuple[dict[str, Any], str]]:
    """The object of each line that is not blank, with its "file:line"."""
    for line, where in read_lines(path):
        if not line.strip():
            continue
        try:
            item = json.loads(line, object_pairs_hook=each_once)
        except (ValueError, RecursionError) as error:
            raise RegardError(f"{where}: not JSON: {str(error)[:80]}") from None
        if not isinstance(item, dict):
            raise RegardError(f"{where}: expected a JSON object, found {type(item).__name__}")
        yield item, where


def value_of(item: dict[str, Any], key: str) -> Any:
    """The value under a key, or ``MISSING``; dots reach into nested objects."""
    value = item.get(key, MISSING)
    if value is MISSING and "." in key:
        value = item
        for part in key.split("."):
            value = value.get(part, MISSING) if isinstance(value, dict) else MISSING
    return value


def text_of(value: Any, key: str, where: str) -> str:
    """The value as a text; an error if it is none."""
    if not isinstance(value, str):
        raise RegardError(f"{where}: '{key}' is not a text but {type(value).__name__}")
    if has_half(value):
        raise RegardError(f"{where}: '{key}' holds half a surrogate pair, which is no character")
    return value


def keys_of(item: dict[str, Any]) -> list[str]:
    """The first keys of an object, as messages list them; nested ones with dots."""
    inner = [f"{key}.{part}" for key, value in item.items() if isinstance(value, dict) for part in value]
    return [name[:30] for name in sorted([*item, *inner])[:9]]
