"""Checks a ``tokenizer.json`` before the ``tokenizers`` library reads it.

The library trusts its files: an id of 2³¹ makes it allocate two gigabytes, a merge of unknown pieces makes it panic,
and a pattern that backtracks may never end. So regard checks first: ids are 0 … n-1, each once, and n is at most the
rows of the model; the steps around the model are those of ``steps.py``; padding, truncation and the post-processor,
which regard does not use, are removed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NoReturn

from regard.errors import RegardError, nearest
from regard.regular import parse_json
from regard.text.steps import check_steps

LONGEST = 512  # characters of a piece; published vocabularies have up to 128 (runs of spaces)
UNIGRAM_LONGEST = 128  # lower, since a unigram model tries pieces of all lengths at every position
MERGES = 16  # at most, per entry of the vocabulary
WORD = 200  # characters of a word that WordPiece cuts; its time grows with the square
_KEYS = ("version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder",
         "model")  # fmt: skip
_MODELS = {
    "BPE": ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", "byte_fallback",
            "ignore_merges", "vocab", "merges"),
    "Unigram": ("unk_id", "vocab", "byte_fallback"),
    "WordLevel": ("vocab", "unk_token"),
    "WordPiece": ("unk_token", "continuing_subword_prefix", "max_input_chars_per_word", "vocab"),
}  # fmt: skip
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
_MOST = 1 << 26  # bytes of any tokenizer.json; Gemma's, with 262,144 entries, has half as many


def limit(rows: int | None) -> int:
    """The most bytes of a ``tokenizer.json`` of a table with ``rows`` rows; 50 to 130 a row are common."""
    return _MOST if rows is None else min(_MOST, (1 << 20) + 512 * rows)


def checked(data: bytes) -> str:
    """The text of a ``tokenizer.json`` that is safe for the library; a RegardError says what is wrong."""
    try:
        found = parse_json(data.decode("utf-8"))
        if not isinstance(found, dict) or not isinstance(found.get("model"), dict):
            raise RegardError("expected the JSON of the tokenizers library: a table with 'model'")
        _check_keys(found, _KEYS, "it")
        found |= {"truncation": None, "padding": None, "post_processor": None}
        entries = _check_model(found["model"])
        _check_added(found.get("added_tokens") or [], entries)
        check_steps(found)
        text = json.dumps(found, ensure_ascii=False)
        text.encode("utf-8")  # raises for half a surrogate pair
    except RecursionError:
        raise RegardError("not valid JSON (tables within tables without end)") from None
    except ValueError as error:
        raise RegardError(f"not valid JSON ({str(error)[:100]})") from None
    return text


def _check_model(model: Mapping[str, Any]) -> dict[str, int]:
    """Check the model and return its entries, piece → id."""
    kind = model.get("type")
    if not isinstance(kind, str) or kind not in _MODELS:
        _refuse(f"'type' of the model is {kind!r:.60}: expected one of {', '.join(_MODELS)}")
    _check_keys(model, _MODELS[kind], f"a model of type {kind}")
    vocab = model.get("vocab")
    entries = _unigram(vocab) if kind == "Unigram" else _numbered(vocab)
    if not entries:
        _refuse("the vocabulary is empty")
    for piece in entries:
        if not 0 < len(piece) <= LONGEST:
            _refuse(f"a piece of {len(piece)} characters: expected 1 to {LONGEST} ({piece!r:.40})")
    unknown = model.get("unk_id" if kind == "Unigram" else "unk_token")
    if kind == "Unigram":
        if unknown is None or not (
            _whole(unknown) and 0 <= unknown < len(entries)
        ):  # without it the library fails at the first unknown character
            _refuse(f"unk_id is {unknown!r:.40}, but the vocabulary has {len(entries)} entries")
    elif (unknown is not None or kind != "BPE") and not (isinstance(unknown, str) and unknown in entries):
        _refuse(f"unk_token is {unknown!r:.40}, which is not in the vocabulary")
    for key in ("fuse_unk", "byte_fallback", "ignore_merges"):
        if not isinstance(model.get(key, False), bool):
            _refuse(f"{key} is {model[key]!r:.40}: expected true or false")
    if kind == "BPE":
        _check_bpe(model, entries)
    if kind == "WordPiece":
        most, prefix = model.get("max_input_chars_per_word", 100), model.get("continuing_subword_prefix", "##")
        if not _whole(most) or not 0 < most <= WORD or not isinstance(prefix, str) or len(prefix) > LONGEST:
            _refuse(f"max_input_chars_per_word is {most!r:.40}: expected 1 to {WORD}")
    return entries


def _numbered(vocab: Any) -> dict[str, int]:
    """Check that the ids of {piece: id} are 0 … n-1, each once."""
    if not isinstance(vocab, dict):
        _refuse("'vocab' of the model is not a table from pieces to ids")
    for piece, index in vocab.items():
        if not _whole(index) or not 0 <= index < len(vocab):
            _refuse(
                f"the id of {piece!r:.40} is {index!r:.40}, but there are {len(vocab)} entries, 0 to {len(vocab) - 1}"
            )
    if len(set(vocab.values())) != len(vocab):
        _refuse("two entries of the vocabulary have one id")
    return vocab


def _unigram(vocab: Any) -> dict[str, int]:
    """The entries of [[piece, score], …], whose ids are their positions."""
    if not isinstance(vocab, list):
        _refuse("'vocab' of the model is not a list of pieces with scores")
    entries: dict[str, int] = {}
    for index, entry in enumerate(vocab):
        if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[0], str):
            _refuse(f"entry {index} of the vocabulary is not a piece with a score")
        piece, score = entry
        if not isinstance(score, int | float) or isinstance(score, bool) or not abs(score) <= 1e9:
            _refuse(f"the score of {piece!r:.40} is {score!r:.40}: expected a number of an ordinary size")
        if len(piece) > UNIGRAM_LONGEST:
            _refuse(f"a piece of {len(piece)} characters: expected 1 to {UNIGRAM_LONGEST} ({piece!r:.40})")
        if piece in entries:
            _refuse(f"the piece {piece!r:.40} stands twice in the vocabulary")
        entries[piece] = index
    letters = sum(map(len, entries))
    if letters > 65_536 + 32 * len(entries):  # the library keeps a trie of all characters
        _refuse(f"{len(entries)} pieces of {letters} characters: expected pieces of 32 on average, or less")
    return entries


def _check_bpe(model: Mapping[str, Any], entries: Mapping[str, int]) -> None:
    if model.get("dropout") not in (None, 0, 0.0):
        _refuse(
            "dropout in the tokenizer gives another answer each time: expected null (data.subword_dropout trains it)"
        )
    if model.get("continuing_subword_prefix") not in (None, ""):
        _refuse("continuing_subword_prefix is set, which BPE vocabularies do not have here: expected null")
    suffix = model.get("end_of_word_suffix")
    if suffix is not None and not (isinstance(suffix, str) and len(suffix) <= LONGEST):
        _refuse(f"end_of_word_suffix is {suffix!r:.40}: expected a text")
    merges = model.get("merges")
    if not isinstance(merges, list) or len(merges) > MERGES * len(entries):
        _refuse(f"'merges' is not a list of at most {MERGES} merges for each entry of the vocabulary")
    for number, merge in enumerate(merges):
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(part, str) for part in parts):
            _refuse(f"merge {number} is {merge!r:.60}: expected two pieces")
        for piece in (*parts, parts[0] + parts[1]):
            if piece not in entries:
                _refuse(f"merge {number} is {merge!r:.60}: {piece!r:.40} is not in the vocabulary")


def _check_added(added: Any, entries: Mapping[str, int]) -> None:
    """Check added tokens: each is an entry of the vocabulary, or has the next free id."""
    if not isinstance(added, list):
        _refuse("'added_tokens' is not a list")
    seen: set[str] = set()
    following = len(entries)
    for token in added:
        if not isinstance(token, dict) or set(token) - {"id", "content", *_FLAGS}:
            _refuse(f"added token {token!r:.60}: expected a table of {', '.join(('id', 'content', *_FLAGS))}")
        content, index = token.get("content"), token.get("id")
        if not isinstance(content, str) or not 0 < len(content) <= LONGEST or content in seen:
            _refuse(f"added token {content!r:.40}: expected a text of 1 to {LONGEST} characters, once")
        if not all(isinstance(token.get(key, False), bool) for key in _FLAGS):
            _refuse(f"added token {content!r:.40}: expected true or false for {', '.join(_FLAGS)}")
        expected = entries.get(content, following)
        if not _whole(index) or index != expected:
            _refuse(f"the id of the added token {content!r:.40} is {index!r:.40}: expected {expected}")
        following += content not in entries
        seen.add(content)


def _check_keys(table: Mapping[str, Any], known: tuple[str, ...], what: str) -> None:
    for key in table:
        if key not in (*known, "type"):
            _refuse(f"{what} has no key {key!r:.60}{nearest(key, known)}")


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _refuse(reason: str) -> NoReturn:
    raise RegardError(reason)
