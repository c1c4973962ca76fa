"""Subwords: BPE or unigram over words that a regular expression cuts out, with bytes for everything rare.

A text is cut without loss. A space becomes ``▁`` and belongs to the word after it, so that a word is the same piece
wherever it stands; a text that begins with a letter of a spaced script gets one ``▁`` more, which decoding takes off.
Punctuation, symbols and digits stand alone; runs of Chinese characters and kana are words of their own, whose pieces
the training finds: no segmenter is needed. All of this stands in ``tokenizer.json``; normalisation, which the
``tokenizers`` library cannot do the same way, stands in ``text.json`` and is given to ``read``.

The four special tokens and the 256 bytes are ordinary entries of the vocabulary that no text can produce, since
``<``, ``>`` and digits are words of their own: ``</s>`` as text is text.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from regard.errors import RegardError
from regard.files import read_bytes, write
from regard.text.normalize import normalizer

# The library warns, and stops using threads, when a process that has tokenized forks; ours are told in time.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

import tokenizers  # noqa: E402  (after the setting above)

PAD, UNK, BOS, EOS = SPECIALS = ("<pad>", "<unk>", "<s>", "</s>")
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
SPACE = "▁"


class Tokenizer:
    """Text to ids and back: ``decode(encode(text)) == normalize(text)``, special tokens never among the ids."""

    def __init__(self, inner: tokenizers.Tokenizer, normalize: Sequence[str] = ()) -> None:
        self.inner = inner
        self.normalize = normalizer(normalize)
        self._json = inner.to_str(pretty=True)
        inner.no_padding()
        inner.no_truncation()
        inner.encode_special_tokens = True  # "</s>" in a text is five characters, also where a file declares it special
        added = inner.get_added_tokens_decoder()
        named = (inner.token_to_id(name) for name in SPECIALS)
        self.special_ids = frozenset(index for index in named if index is not None) | frozenset(
            index for index, token in added.items() if token.special
        )
        self._spaced = b'"\\u2581"' in self._json.encode() or f'"{SPACE}"' in self._json

    @classmethod
    def train(
        cls,
        lines: Iterable[str],
        kind: str = "bpe",
        vocabulary: int = 8000,
        normalize: Sequence[str] = ("nfc",),
        character_coverage: float = 0.9995,
    ) -> Tokenizer:
        """Learn a vocabulary of at most ``vocabulary`` entries; the same lines give the same bytes of JSON."""
        from regard.text.learn import learn

        steps = normalizer(normalize)
        return cls(learn(map(steps, lines), kind, vocabulary, character_coverage), normalize)

    @classmethod
    def read(cls, path: Path, normalize: Sequence[str] = ()) -> Tokenizer:
        """Read a ``tokenizer.json``; ``normalize`` is what ``text.json`` says."""
        data = read_bytes(path)
        try:
            return cls(tokenizers.Tokenizer.from_str(data.decode("utf-8")), normalize)
        except RegardError:
            raise
        except BaseException as error:  # the library panics (a BaseException) on some damaged files
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            raise RegardError(f"{path}: not a tokenizer of the tokenizers library ({str(error)[:100]})") from None

    def write(self, path: Path) -> None:
        """Write ``tokenizer.json``: for use inside a folder that is written as a whole."""
        write(path, self._json.encode())

    @property
    def size(self) -> int:
        """Entries of the vocabulary, special tokens and bytes included: the rows of an embedding."""
        return int(self.inner.get_vocab_size(with_added_tokens=True))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the JSON."""
        return hashlib.sha256(self._json.encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without special tokens."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of many texts, in parallel; much quicker than one by one."""
        texts = [self.normalize(text) for text in texts]
        rows = [row.ids for row in self.inner.encode_batch_fast(texts, add_special_tokens=False)]
        if self._spaced:
            for index, text in enumerate(texts):
                if SPACE in text:
                    rows[index] = self._encode_with_bar(text)
        return rows

    def _encode_with_bar(self, text: str) -> list[int]:
        """A text that holds the sign ▁ itself, which would come back as a space: the sign becomes its three bytes.

        What follows it is encoded behind a digit, which stands alone, and the digit's id is dropped: so it is cut as
        it would be within a line, without a ▁ of its own.
        """
        first, *rest = text.split(SPACE)
        ids = list(self.inner.encode(first, add_special_tokens=False).ids)
        bar = [self.inner.token_to_id(BYTES[byte]) for byte in SPACE.encode()]
        if None in bar:  # a foreign tokenizer without bytes: as its library has it
            return list(self.inner.encode(text, add_special_tokens=False).ids)
        for part in rest:
            ids += bar
            ids += self.inner.encode("0" + part, add_special_tokens=False).ids[1:]
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; special tokens are dropped, bytes that are not UTF-8 become U+FFFD."""
        text: str = self.inner.decode([int(i) for i in ids if int(i) not in self.special_ids], skip_special_tokens=False)
        return text

    def tokens(self, ids: Sequence[int]) -> list[str]:
        """The readable pieces, one for each id: ``▁`` kept, special tokens by name."""
        return [self._piece(int(index)) for index in ids]

    def _piece(self, index: int) -> str:
        piece = self.inner.id_to_token(index)
        if piece is None:
            raise RegardError(f"id {index} is not in the vocabulary of {self.size}")
        return str(piece)

    @functools.cached_property
    def description(self) -> dict[str, Any]:
        """The parsed JSON: what subword dropout reads its words, pieces and merges from."""
        parsed: dict[str, Any] = json.loads(self._json)
        return parsed
