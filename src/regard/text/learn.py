"""Learns a vocabulary from lines: counts words, chooses characters, finds pieces, assembles the tokenizer."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from regard.errors import RegardError
from regard.text.specials import BYTES, SPECIALS, UNK
from regard.text.words import BAR, SPACE, cutter, word_patterns


def learn(
    lines: Iterable[str], kind: str, vocabulary: int, coverage: float, *, continued: bool = False
) -> tokenizers.Tokenizer:
    """A tokenizer with a vocabulary of special tokens, bytes, characters and learnt pieces.

    ``continued``: the lines are parts of longer texts, and no ▁ stands before the first word of each.
    """
    words = count_words(lines, continued=continued or kind == "characters")
    if not words:
        raise RegardError("the training text has no characters to learn subwords from")
    if kind == "characters":
        return assemble(_characters(words, vocabulary - len(SPECIALS) - len(BYTES)), starts=False)
    # The bytes of ▁ would not be decoded as a space, however rare spaces are.
    alphabet = sorted({SPACE, *choose_characters(words, coverage)})
    least = len(SPECIALS) + len(BYTES) + len(alphabet)
    if vocabulary < least:
        raise RegardError(
            f"data.vocabulary = {vocabulary} is too small: 4 special tokens, 256 bytes and the corpus's "
            f"{len(alphabet)} characters need {least}; raise it or lower data.character_coverage"
        )
    known = frozenset(alphabet)
    words = _covered(words, known)
    room = vocabulary - len(SPECIALS) - len(BYTES)
    if kind == "bpe":
        return assemble(_bpe(words, alphabet, room))
    return assemble(_unigram(words, alphabet, room))


def count_words(lines: Iterable[str], *, continued: bool = False) -> Counter[str]:
    """The counts of words (with their ▁) in the lines."""
    word, start = word_patterns()
    cut = cutter(word, "" if continued else start)
    words: Counter[str] = Counter()
    for line in lines:
        words.update(cut(line))
    del words[BAR]
    return words


def count_characters(words: Counter[str]) -> Counter[str]:
    """The counts of the words' characters."""
    counts: Counter[str] = Counter()
    for word, times in words.items():
        for character in word:
            counts[character] += times
    return counts


def choose_characters(words: Counter[str], coverage: float) -> list[str]:
    """The commonest characters that make up ``coverage`` of the text, in the order of their code points."""
    counts = count_characters(words)
    need, have, chosen = coverage * counts.total(), 0, []
    # Ties by code point, so that the choice is always the same.
    for character, times in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        if have >= need:
            break
        chosen.append(character)
        have += times
    return sorted(chosen)


def _covered(words: Counter[str], known: frozenset[str]) -> Counter[str]:
    """The words cut at characters outside ``known``, which become bytes: no piece is learnt across one."""
    rare = re.compile("[^" + "".join(re.escape(character) for character in sorted(known)) + "]+")
    covered: Counter[str] = Counter()
    for word, times in words.items():
        if known.issuperset(word):
            covered[word] += times
        else:
            for part in rare.split(word):
                if part:
                    covered[part] += times
    return covered


def _bpe(words: Counter[str], alphabet: list[str], room: int) -> dict[str, Any]:
    """A BPE model by the library's trainer, whose merges depend on counts and characters only."""
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.CharDelimiterSplit("\n")
    trainer = trainers.BpeTrainer(
        vocab_size=room, min_frequency=2, initial_alphabet=alphabet, show_progress=False, max_token_length=24
    )
    inner.train_from_iterator(_repeated(words), trainer)
    model: dict[str, Any] = json.loads(inner.to_str())["model"]
    pieces = sorted(model["vocab"], key=model["vocab"].__getitem__)
    return _bpe_model(pieces, [list(merge) for merge in model["merges"]])


def _characters(words: Counter[str], room: int) -> dict[str, Any]:
    """A BPE model without merges: the space and the commonest characters, at most ``room``, have an id each."""
    counts = count_characters(words)
    counts[SPACE] = counts.total()  # a text may have none, and another one has
    common = sorted(counts, key=lambda character: (-counts[character], character))[: max(room, 1)]
    return _bpe_model(sorted(common), [])


def _bpe_model(pieces: list[str], merges: list[list[str]]) -> dict[str, Any]:
    """The JSON of a BPE model whose vocabulary is special tokens, bytes and ``pieces``."""
    names = [*SPECIALS, *BYTES, *pieces]
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": UNK,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": True,
        "ignore_merges": False,
        "vocab": {name: index for index, name in enumerate(names)},
        "merges": merges,
    }


def _unigram(words: Counter[str], alphabet: list[str], room: int) -> dict[str, Any]:
    from regard.text.unigram import learn_pieces

    if any(SPACE in word for word in words):
        pieces = learn_pieces(words, alphabet, room)
    else:
        pieces = learn_pieces(words, [character for character in alphabet if character != SPACE], room - 1)
        pieces.append((SPACE, pieces[-1][1]))
    entries = [[name, 0.0] for name in (*SPECIALS, *BYTES)] + [[piece, score] for piece, score in pieces]
    return {"type": "Unigram", "unk_id": SPECIALS.index(UNK), "vocab": entries, "byte_fallback": True}


def _repeated(words: Counter[str]) -> Iterator[str]:
    """Texts that repeat each word as often as it was counted: the library's trainer takes texts, not counts."""
    for word, times in sorted(words.items()):
        for first in range(0, times, 1000):
            yield "\n".join([word] * min(1000, times - first))


def assemble(model: dict[str, Any], *, starts: bool = True) -> tokenizers.Tokenizer:
    """A tokenizer of the model, with normalizer, pre-tokenizer and decoder.

    ``starts``: a text that begins with a letter of a spaced script gets one more ▁, which decoding removes.
    """
    word, start = word_patterns()
    bar = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    first = {"type": "Replace", "pattern": {"Regex": start}, "content": SPACE}
    back = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if starts else []
    description: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {"type": "Sequence", "normalizers": [bar, first] if starts else [bar]},
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": word}, "behavior": "Isolated", "invert": False},
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip],
        },
        "model": model,
    }
    return tokenizers.Tokenizer.from_str(json.dumps(description, ensure_ascii=False))
