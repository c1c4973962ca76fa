"""tokenizer.json whose ids, patterns, replacements or kinds are made to hang, fill or stop the library that runs it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from hostile import (
    Case,
    chosen,
    damage_json,
    damaged,
    fresh,
    make_models,
    rewrite_manifest,
    rng_of,
    strange,
    strange_text,
)
from hostile.command import attempt

COUNT = 200
IDS = (-1, 300, 319, 320, 321, 10**6, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 63, 1.0, True, None, "1", [1])
REGEXES = ("(x+x+)+y", "(a|a)*b", "(a*)*c", "(?:a?){60}a{60}", "a{1000}{1000}", "(", "[", "\\", "(?<=a*)b", "", "^",
           "$", ".*", "\\1", "(?#", "a" * 100_000, "[\\x00-\\x{10FFFF}]{1,1000}", "(?i)ß*", "\\p{Nope}")  # fmt: skip
NORMALIZERS = ("NFC", "NFD", "NFKC", "NFKD", "Nmt", "Lowercase", "StripAccents", "Strip", "Prepend", "Replace",
               "BertNormalizer", "ByteLevel", "Precompiled", "Sequence", "Nobody")  # fmt: skip
PRE_TOKENIZERS = ("Split", "Whitespace", "WhitespaceSplit", "BertPreTokenizer", "Metaspace", "ByteLevel", "FixedLength",
                  "CharDelimiterSplit", "Digits", "Punctuation", "UnicodeScripts", "Sequence", "Nobody")  # fmt: skip
DECODERS = ("Replace", "ByteFallback", "Fuse", "Strip", "ByteLevel", "Metaspace", "WordPiece", "BPEDecoder", "CTC",
            "Sequence", "Nobody")  # fmt: skip


def cases(seed: int, numbers: Iterable[int], folder: Path) -> Iterator[Case]:
    """Each case is a model with another tokenizer.json, BPE or Unigram, given to translate or params."""
    originals = make_models(folder / "originals")
    place = folder / "case"
    for number in numbers:
        rng = rng_of(seed, number)
        model = fresh(rng.choice(originals), place)
        path = model / "tokenizer.json"
        text = path.read_text("utf-8")
        name, change = chosen(rng, KINDS)
        if name == "bytes":
            path.write_bytes(damaged(text.encode(), rng))
        elif name == "JSON":
            path.write_text(damage_json(text, rng), "utf-8", "surrogatepass")
        else:
            description = json.loads(text)
            change(description, rng)
            path.write_text(json.dumps(description), "utf-8")
        if rng.random() < 0.7:
            rewrite_manifest(model)
        else:
            (model / "manifest.json").unlink()
        verb = rng.choice((["translate"], ["translate"], ["translate"], ["params"]))
        yield Case(number, name, partial(attempt, [*verb, str(model)], folder))


def _ids(found: dict[str, Any], rng: random.Random) -> None:
    vocab = found["model"]["vocab"]
    for _ in range(rng.choice((1, 1, 2, 20))):
        if isinstance(vocab, dict):
            vocab[rng.choice((*list(vocab)[-20:], "new", ""))] = rng.choice(IDS)
        else:
            found["model"]["unk_id"] = rng.choice(IDS)
            vocab[rng.randrange(len(vocab))] = [
                rng.choice(("a", "", strange_text(rng))),
                rng.choice((*IDS, 1e300, -1e300)),
            ]


def _scores(found: dict[str, Any], rng: random.Random) -> None:
    vocab = found["model"]["vocab"]
    if isinstance(vocab, list):
        score = rng.choice((0.0, 1e300, -1e300, -1e9, 1e9, 1e-320, None, "0", [0]))
        for entry in rng.sample(vocab, rng.choice((1, len(vocab)))):
            entry[1] = score
    else:
        found["model"]["merges"] += rng.choice(
            ([["t", "h", "e"]], [["t"]], ["x y"], [["", ""]], [[1, 2]], [None], [["<s>", "a"]])
        )


def _pattern(found: dict[str, Any], rng: random.Random) -> None:
    regex = rng.choice((*REGEXES, found["pre_tokenizer"]["pattern"]["Regex"] + rng.choice(REGEXES)))
    place = rng.choice(("pre_tokenizer", "normalizer", "decoder"))
    pattern = {rng.choice(("Regex", "Regex", "String", "Regexp")): regex}
    if place == "pre_tokenizer":
        behavior = rng.choice(("Isolated", "Removed", "MergedWithPrevious", "Contiguous", "Nothing"))
        found[place] = {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": rng.random() < 0.3}
    else:
        found[place] = {"type": "Replace", "pattern": pattern, "content": rng.choice(("", "a", "aa" * 1000))}


def _growth(found: dict[str, Any], rng: random.Random) -> None:
    """Replacements, Unicode forms or bytes of bytes, one after another."""
    found_text, put_text = rng.choice(("a", "aa", " ", "▁", "")), rng.choice(("aa", "a", "a" * 16))
    steps = [
        {"type": "Replace", "pattern": {"String": found_text}, "content": put_text},
        {"type": "ByteLevel"},
        {"type": rng.choice(("NFKC", "NFKD", "NFD", "Lowercase"))},
        {"type": "Prepend", "prepend": rng.choice(("▁", "a" * 16, "a" * 100_000, ""))},
    ]
    times = rng.choice((1, 2, 3, 8, 30, 1000))
    found["normalizer"] = {"type": "Sequence", "normalizers": [rng.choice(steps) for _ in range(times)]}


def _kinds(found: dict[str, Any], rng: random.Random) -> None:
    """Any kind of step, in its place or another, with the keys of any."""
    keys: dict[str, Any] = {
        "pattern": {"String": rng.choice(("a", " ", "▁", ""))},
        "content": rng.choice((" ", "", "▁", "aa")), "behavior": "Isolated", "invert": False,
        "start": rng.choice((0, 1, 9, -1)), "stop": rng.choice((0, 1, 9)), "length": rng.choice((0, 1, 1 << 40)),
        "replacement": rng.choice(("▁", "", "aa")),
        "prepend_scheme": "always", "split": True, "add_prefix_space": True, "trim_offsets": True, "use_regex": True,
        "delimiter": "a", "individual_digits": True, "prefix": "##", "suffix": "</w>", "cleanup": True, "prepend": "▁",
        "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True, "strip_left": True,
        "strip_right": True, "precompiled_charsmap": rng.choice(("", "AAAA", "////", "A" * 4000)), "pad_token": "<pad>",
        "word_delimiter_token": "|", "normalizers": [], "pretokenizers": [], "decoders": [],
    }  # fmt: skip
    tables = (("normalizer", NORMALIZERS), ("pre_tokenizer", PRE_TOKENIZERS), ("decoder", DECODERS))
    for place, names in rng.sample(tables, rng.choice((1, 2, 3))):
        name = rng.choice(names)
        own = _keys_of(place, name)
        step = {"type": name} | {key: keys[key] for key in (own or rng.sample(sorted(keys), 3)) if key in keys}
        if rng.random() < 0.3:
            step[rng.choice(sorted(step))] = strange(rng)
        found[place] = step


def _keys_of(place: str, name: str) -> list[str]:
    """The keys that a kind has, where regard runs it."""
    from regard.text.steps import PLACES

    table = PLACES[place][0]
    return list(table[name].keys) if name in table else []


def _added(found: dict[str, Any], rng: random.Random) -> None:
    size = len(found["model"]["vocab"])
    found["added_tokens"] = [
        {
            "id": rng.choice((size + index, size + index, size + index, *IDS)),
            "content": rng.choice((f"<x{index}>", f"<x{index}>", "a", " ", "<s>", "", "▁", strange_text(rng))),
            **{key: rng.random() < 0.5 for key in ("single_word", "lstrip", "rstrip", "normalized", "special")},
        }
        for index in range(rng.choice((1, 1, 2, 50)))
    ]


def _model(found: dict[str, Any], rng: random.Random) -> None:
    """Another kind of model over the same pieces, or odd values of its keys."""
    vocab = found["model"]["vocab"]
    pieces = list(vocab) if isinstance(vocab, dict) else [entry[0] for entry in vocab]
    if rng.random() < 0.5:
        kind = rng.choice(("BPE", "WordLevel", "WordPiece", "Unigram"))
        ids = {piece: index for index, piece in enumerate(pieces)}
        entries: Any = [[piece, -1.0] for piece in pieces] if kind == "Unigram" else ids
        found["model"] = {"type": kind, "vocab": entries, "unk_token": rng.choice(("<unk>", "nope", None))}
        found["model"] |= {"merges": []} if kind == "BPE" else {}
        found["model"] |= {"max_input_chars_per_word": rng.choice((0, 100, 1 << 40))} if kind == "WordPiece" else {}
        if kind == "Unigram":
            found["model"] = {"type": kind, "vocab": entries, "unk_id": rng.choice((None, 1, 1 << 31))}
    else:
        keys = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", "byte_fallback",
                "ignore_merges", "type", "vocab", "merges", "unk_id")  # fmt: skip
        found["model"][rng.choice(keys)] = strange(rng)


def _marks(found: dict[str, Any], rng: random.Random) -> None:
    """Odd marks, padding and truncation, which regard reads itself."""
    found["post_processor"] = rng.choice(
        (
            {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}] * 1000, "pair": [],
             "special_tokens": {}},
            {"type": "TemplateProcessing", "single": [], "pair": [], "special_tokens": {}},
            strange(rng),
        )
    )  # fmt: skip
    found["padding"] = rng.choice(
        (None, strange(rng), {"strategy": {"Fixed": 1 << 40}, "direction": "Right", "pad_id": 0})
    )
    found["truncation"] = rng.choice(
        (None, strange(rng), {"max_length": 0, "strategy": "LongestFirst", "stride": 1 << 40})
    )


KINDS: dict[str, tuple[int, Callable[..., Any]]] = {
    "bytes": (2, damaged),
    "JSON": (4, damage_json),
    "ids": (3, _ids),
    "scores and merges": (2, _scores),
    "pattern": (3, _pattern),
    "growth": (2, _growth),
    "kinds of steps": (5, _kinds),
    "added tokens": (3, _added),
    "model": (3, _model),
    "marks": (1, _marks),
}
