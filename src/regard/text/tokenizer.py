"""Tokenizer: BPE or unigram subwords of words that a regular expression cuts out, with bytes for rare characters.

The patterns stand in ``words.py`` and in ``tokenizer.json``. Normalisation, which the ``tokenizers`` library cannot do
in the same way, stands in ``text.json`` and is passed to ``read``.

The four special tokens and the 256 bytes are ordinary entries of the vocabulary. No text can produce them, since ``<``,
``>`` and digits are separate words: ``</s>`` in a text is text.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from regard.errors import RegardError
from regard.files import write
from regard.regular import read_bytes
from regard.text.description import checked, limit
from regard.text.normalize import normalizer
from regard.text.specials import BYTES, SPECIALS
from regard.text.steps import without_start
from regard.text.words import BAR, SPACE, cutter, our_word, ours

# Else the library warns, and stops using threads, when a process that has tokenized forks.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

import tokenizers

_REMEMBERED = 1 << 16  # words in the cache of ids
_LONG = 32  # characters of the longest cached word


@contextlib.contextmanager
def library_errors() -> Iterator[None]:
    """Turn the library's errors into one line; its panics are BaseExceptions. A MemoryError passes."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError, RegardError):
        raise
    except BaseException as error:
        reason = " ".join(str(error).split())[:100]
        raise RegardError(f"the tokenizers library cannot use this tokenizer ({reason})") from None


class Tokenizer:
    """Text to ids and back: ``decode(encode(text)) == normalize(text)``; ids never include special tokens."""

    def __init__(self, inner: tokenizers.Tokenizer, normalize: Sequence[str] = ()) -> None:
        inner.no_padding()
        inner.no_truncation()
        inner.encode_special_tokens = True  # "</s>" in a text is text, even if a file declares it special
        self.inner = inner
        self.normalization = tuple(normalize)
        self.normalize = normalizer(normalize)
        self._json = inner.to_str(pretty=True)
        self._model = inner.model
        self._known: dict[str, list[int]] = {}
        added = inner.get_added_tokens_decoder()
        named = (inner.token_to_id(name) for name in SPECIALS)
        self.special_ids = frozenset(index for index in named if index is not None) | frozenset(
            index for index, token in added.items() if token.special
        )

    @classmethod
    def train(
        cls,
        lines: Iterable[str],
        kind: str = "bpe",
        vocabulary: int = 8000,
        normalize: Sequence[str] = ("nfc",),
        character_coverage: float = 0.9995,
        *,
        continued: bool = False,
    ) -> Tokenizer:
        """Learn a vocabulary of at most ``vocabulary`` entries; the same lines give the same bytes of JSON.

        ``kind``: bpe, unigram, or characters, whose pieces are the characters themselves. ``continued``: the lines are
        parts of longer texts, with their line breaks.
        """
        from regard.text.learn import learn

        steps = normalizer(normalize)
        return cls(learn(map(steps, lines), kind, vocabulary, character_coverage, continued=continued), normalize)

    @classmethod
    def read(cls, path: Path, normalize: Sequence[str] = (), rows: int | None = None) -> Tokenizer:
        """Read a ``tokenizer.json``; ``normalize`` is that of ``text.json``, ``rows`` the rows of the model's table.

        ``description.py`` checks the file before the library reads it; a fault is one line that names the file.
        """
        data = read_bytes(path, limit(rows))
        try:
            text = checked(data)
            with library_errors():
                found = cls(tokenizers.Tokenizer.from_str(text), normalize)
        except RegardError as error:
            raise RegardError(f"{path}: {error}") from None
        return found

    def with_specials(self, names: Sequence[str]) -> Tokenizer:
        """The same tokenizer with further special tokens, which have the next free ids."""
        inner = tokenizers.Tokenizer.from_str(self._json)
        inner.add_special_tokens([tokenizers.AddedToken(name, special=True) for name in names])
        return Tokenizer(inner, self.normalization)

    def id_of(self, name: str) -> int:
        """The id of a special token; a RegardError where the vocabulary has none."""
        index = self.inner.token_to_id(name)
        if index is None:
            raise RegardError(f"the vocabulary has no token {name!r:.40}")
        return int(index)

    def write(self, path: Path) -> None:
        """Write ``tokenizer.json``: for use inside a folder that is written as a whole."""
        write(path, self._json.encode())

    @property
    def size(self) -> int:
        """The number of entries, special tokens and bytes included: the rows of an embedding."""
        return int(self.inner.get_vocab_size(with_added_tokens=True))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the JSON."""
        return hashlib.sha256(self._json.encode()).hexdigest()

    @functools.cached_property
    def description(self) -> dict[str, Any]:
        """The parsed JSON, from which subword dropout reads pieces and merges."""
        parsed: dict[str, Any] = json.loads(self._json)
        return parsed

    @functools.cached_property
    def _patterns(self) -> tuple[str, str] | None:
        """The patterns of a word and of a text's start ("": nothing is put there); None if regard did not train it."""
        try:
            bar, *first = self.description["normalizer"]["normalizers"]
            split = self.description["pre_tokenizer"]
            word, start = split["pattern"]["Regex"], first[0]["pattern"]["Regex"] if first else ""
            contents = (bar["pattern"]["String"], bar["content"], [step["content"] for step in first])
        except (KeyError, TypeError, ValueError):
            return None
        if contents not in ((" ", SPACE, [SPACE]), (" ", SPACE, [])) or split["behavior"] != "Isolated":
            return None
        fits = ours(word, start) if first else our_word(word)
        return (word, start) if fits and not split["invert"] else None

    @functools.cached_property
    def cut(self) -> Callable[[str], list[str]] | None:
        """The function from a normalised text to its words; None for a tokenizer that regard did not train."""
        return cutter(*self._patterns) if self._patterns else None

    @functools.cached_property
    def cut_on(self) -> Callable[[str], list[str]] | None:
        """The same for a text that goes on: nothing is put before its first word."""
        return cutter(self._patterns[0]) if self._patterns else None

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without special tokens."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str], *, continued: bool = False) -> list[list[int]]:
        """The ids of each text.

        ``continued``: each text goes on where another ends, such as a line within a document, and gets no ▁ (or what
        another family puts) before its first word.
        """
        cut = self.cut_on if continued else self.cut
        if cut is None:
            texts = [self.normalize(text) for text in texts]
            with library_errors():
                inner = self._going_on if continued else self.inner
                encoded = inner.encode_batch_fast(texts, add_special_tokens=False)
                return [row.ids for row in encoded]
        rows: list[list[int]] = []
        known = self._known
        for text in texts:
            row: list[int] = []
            for word in cut(self.normalize(text)):
                row += known.get(word) or self.encode_word(word)
            rows.append(row)
        return rows

    @functools.cached_property
    def _going_on(self) -> tokenizers.Tokenizer:
        """The library's tokenizer without what it puts before a text."""
        inner = tokenizers.Tokenizer.from_str(json.dumps(without_start(self.description), ensure_ascii=False))
        inner.encode_special_tokens = True
        return inner

    def encode_word(self, word: str) -> list[int]:
        """The ids of one word of ``cut``."""
        if word == BAR:
            found = (self.inner.token_to_id(BYTES[byte]) for byte in SPACE.encode())
            ids = [index for index in found if index is not None]
        else:
            with library_errors():
                ids = [token.id for token in self._model.tokenize(word)]
        if len(word) <= _LONG:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[word] = ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; special tokens are dropped, bytes that are not UTF-8 become U+FFFD."""
        plain = [index for index in map(int, ids) if index not in self.special_ids]
        with library_errors():
            return str(self.inner.decode(plain, skip_special_tokens=False))

    def tokens(self, ids: Sequence[int]) -> list[str]:
        """The pieces of ids, one each: ``▁`` kept, special tokens by name."""
        return [self._piece(int(index)) for index in ids]

    def _piece(self, index: int) -> str:
        piece = self.inner.id_to_token(index) if index >= 0 else None
        if piece is None:
            raise RegardError(f"id {index} is not in the vocabulary of {self.size}")
        return str(piece)
