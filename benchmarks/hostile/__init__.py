"""Inputs that nobody meant to write, for ``benchmarks/faults.py``: a module a suite, each with

    COUNT                                  how many cases the long run has
    cases(seed, numbers, folder)           makes the cases of these numbers, one at a time, and yields them

A case is made by (seed, its number) alone, with its files in ``folder``, so that one that fails can be made again. It
is tried before the next one is made. ``command.py`` tries the cases that are command lines, ``malformed.py`` writes the
requests of the suite ``requests``.
"""

from __future__ import annotations

import copy
import json
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

TEXT = "一二三\n\nthe cat sat  on the mat.\n" + "a" * 400 + "\n" + "ﷺ" * 50 + " x\u202e</s> <pad>\n"
LINES = ["the cat sat on the mat .", "zwei junge Männer", "我爱机器学习。一二三", "one two three"] * 3

# Numbers, texts and tables that stand where something else belongs.
NUMBERS = (0, -1, 1, 2, 3, 7, 255, 256, 1 << 16, (1 << 31) - 1, 1 << 31, 1 << 32, (1 << 63) - 1, 1 << 63, 1 << 64,
           10**9, 10**12, 10**30, 0.5, -0.0, 1e-320, 1e308, -1e308)  # fmt: skip
TEXTS = ("", " ", "\0", "\n", "\x1b[2J\x1b]0;x\x07", "\u202e", "../../etc/passwd", "/etc/passwd", "os:system",
         "a" * 5000, "__class__", "%s%n", "<pad>", "▁", "NaN", "null", "\u0085", "\U0010ffff", "(x+x+)+y")  # fmt: skip
OTHERS: tuple[Any, ...] = (
    None,
    True,
    False,
    [],
    {},
    [[]],
    [None] * 50,
    {"": ""},
    {"kind": "rotary"},
    {"type": "Sequence"},
)
# Values that JSON cannot express, put into the text itself.
RAW = ("NaN", "Infinity", "-Infinity", "1e400", "9" * 5000, "[" * 3000 + "]" * 3000, '"\\ud800"', "0x10", "'a'", "01")
_MARK = "\ue000raw\ue000"


class Outcome(NamedTuple):
    """The outcome of a case: "accepted", "refused" or its fault; its time and memory, and its output."""

    verdict: str
    seconds: float
    memory: int | None = None  # bytes; None: not measured
    said: str = ""

    @property
    def failed(self) -> bool:
        return self.verdict not in ("accepted", "refused")


class Case(NamedTuple):
    """One case of a suite, made but not tried."""

    number: int
    label: str
    attempt: Callable[[], Outcome]


def rng_of(seed: int, number: int) -> random.Random:
    """The random stream of one case."""
    return random.Random(f"{seed} {number}")


def make_models(folder: Path) -> list[Path]:
    """Two small translators with random weights, whole and checked; they differ in width and in kind of subwords."""
    import torch

    from regard import directory
    from regard.models import registry
    from regard.text.settings import TextSettings
    from regard.text.tokenizer import Tokenizer

    made = []
    for name, width, kind in (("model", 16, "bpe"), ("other", 32, "unigram")):
        tokenizer = Tokenizer.train(LINES, kind, 320)
        options = registry.options_from(
            {"width": width, "heads": 2, "feedforward": 32, "encoder_layers": 1, "decoder_layers": 1}
        )
        torch.manual_seed(len(made))
        settings = TextSettings(source="zh", target="en", max_length=40)
        model = options.build(tokenizer.size).eval()
        made.append(directory.save(folder / name, model, options, settings, tokenizer, card="# A model\n"))
    return made


def fresh(original: Path, place: Path) -> Path:
    """A copy of a model, where the last case was."""
    if place.is_symlink() or place.is_file():
        place.unlink()
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(original, place)
    return place


def rewrite_manifest(folder: Path) -> None:
    """A manifest that agrees with the files as they are: the mutant passes the check of its hashes."""
    from regard import manifest

    entries = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": manifest.sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink() and path.name != manifest.MANIFEST and path.stat().st_size < 1 << 24
    }
    text = json.dumps({"format_version": 1, "files": entries}, indent=1)
    (folder / manifest.MANIFEST).unlink(missing_ok=True)
    (folder / manifest.MANIFEST).write_text(text + "\n", "utf-8")


def damaged(data: bytes, rng: random.Random, tails: Sequence[bytes] = (), wholes: Sequence[bytes] = ()) -> bytes:
    """Bytes with one kind of damage: flipped, cut short, torn out, put in, zeroed, repeated, appended or others.

    ``tails`` and ``wholes``: what else may be appended, and what else may stand in place of all.
    """
    at, length = rng.randrange(len(data) + 1), rng.choice((1, 2, 8, 64, 4096))
    kind = rng.randrange(8)
    if kind == 0:
        broken = bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 16))):
            place = rng.randrange(max(1, len(broken)))
            broken[place : place + 1] = bytes([broken[place] ^ 1 << rng.randrange(8)]) if broken else b""
        return bytes(broken)
    return (
        data[:at],
        data[:at] + data[at + length :],
        data[:at] + rng.randbytes(length) + data[at:],
        data[:at] + bytes(len(data[at : at + length])) + data[at + length :],
        data[:at] + data[at : at + length] * 2 + data[at + length :],
        data + rng.choice((b"\0", b"\n", b"PK\3\4", rng.randbytes(64), *tails)),
        rng.choice((b"", b"\0", b"{", b"\xff\xfe", b"\x80\x04\x95pickle", b"#!/bin/sh\n", rng.randbytes(200), *wholes)),
    )[kind - 1]


def damage_json(text: str, rng: random.Random) -> str:
    """A JSON text in which one to three values, keys or tables are others."""
    value = json.loads(text)
    raw: list[str] = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        value = _changed(value, rng, raw)
    written = json.dumps(value, ensure_ascii=rng.random() < 0.5)
    for words in raw:
        written = written.replace(json.dumps(_MARK), words, 1).replace(f'"{_MARK}"', words, 1)
    return written


def _changed(value: Any, rng: random.Random, raw: list[str]) -> Any:
    value = copy.deepcopy(value)
    places = list(_places(value))
    if not places:
        return strange(rng)
    # Few places are deep in a long list: any level is as likely as another.
    depth = rng.choice(sorted({level for level, *_ in places}))
    _, holder, key = rng.choice([place for place in places if place[0] == depth])
    kind = rng.randrange(7)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder[strange_text(rng)] = holder.pop(key)
    elif kind == 2 and isinstance(holder, list):
        holder.insert(key, copy.deepcopy(rng.choice(holder)))
    elif kind == 3:
        holder[key] = [copy.deepcopy(holder[key])] * rng.choice((1, 3, 40))
    elif kind == 4:
        raw.append(rng.choice(RAW))
        holder[key] = _MARK
    else:
        holder[key] = strange(rng)
    return value


def _places(value: Any, depth: int = 0) -> Iterator[tuple[int, Any, Any]]:
    """Each (depth, table or list, key or index) of a JSON value."""
    keys: Any = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in list(keys):
        yield depth, value, key
        yield from _places(value[key], depth + 1)


def strange(rng: random.Random) -> Any:
    """A value that belongs nowhere."""
    return copy.deepcopy(rng.choice(rng.choice((NUMBERS, TEXTS, OTHERS))))


def strange_text(rng: random.Random) -> str:
    return rng.choice(TEXTS)


def chosen(rng: random.Random, kinds: dict[str, tuple[int, Callable[..., Any]]]) -> tuple[str, Callable[..., Any]]:
    """One of a table of name → (how often, what it does)."""
    name = rng.choices(list(kinds), [weight for weight, _ in kinds.values()])[0]
    return name, kinds[name][1]
