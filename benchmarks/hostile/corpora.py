"""Corpora in every format, compression and encoding, whole and damaged: nothing lost or read wrongly without a word.

What was written is known, so that what is read can be judged. A whole corpus in UTF-8 gives its pairs, each and in
order; one in UTF-16 or UTF-32 is refused with its encoding's name; a compressed one that was damaged gives all of its
pairs or an error, never a part of them; a damaged plain one gives a pair for each line or an error. Errors are one
line.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import random
import shutil
import time
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from hostile import Case, Outcome, damaged, rng_of

COUNT = 4000
WORDS = [
    *(
        "你好",
        "我们",
        "一",
        "，",
        "“说”",
        '"',
        '""',
        '"x"',
        "'s",
        "a,b",
        "a;b",
        "é",
        "Привет",
        "🙂",
        "zh",
        "en",
        "source",
    ),
    *("中文", "No.", "id", ",", "|", "\\", "#", "the", "cat", "", "\u3000", "\u2028", "\x85", "\x0c"),
]
HEADERS = (None, None, ("source", "target"), ("zh", "en"), ("Chinese", "English"), ("中文", "英文"), ("原文", "译文"))
WIDE = ("UTF-16LE", "UTF-16BE", "UTF-32LE", "UTF-32BE")
TAILS, WHOLES = (b'"', b"\t"), (b"%PDF-1.4\n", b"PK\3\4\0\0")
ENDINGS = {"": "", "gzip": ".gz", "xz": ".xz", "bzip2": ".bz2", "zstd": ".zst"}


class Corpus:
    """One corpus: its pairs, and the bytes of its file or two files."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.kind = rng.choice(("two", "two", "tsv", "tsv quoted", "csv", "jsonl", "hf"))
        self.pairs = [(self._text(), self._text()) for _ in range(rng.choice((2, 5, 40)))]
        self.compression = rng.choice(tuple(ENDINGS) if rng.random() < 0.6 else ("",))
        self.encoding = rng.choice(WIDE) if rng.random() < 0.15 else "utf-8"
        self.marked = rng.random() < 0.3
        self.harm = rng.random() < 0.6

    def _text(self) -> str:
        words = self.rng.choices(WORDS, k=self.rng.randint(1, 7))
        return self.rng.choice(('"', "字", "字")) + self.rng.choice(("", " ")).join(words)

    def files(self) -> dict[str, bytes]:
        """Name → bytes."""
        ending = {"two": "", "tsv": ".tsv", "tsv quoted": ".tsv", "csv": ".csv"}.get(self.kind, ".jsonl")
        packed = self.rng.choice((ENDINGS[self.compression], "")) if self.compression else ""
        texts = {f"c{ending}{packed}": self._whole()}
        if self.kind == "two":
            texts = {f"c.{code}{packed}": "".join(f"{pair[side]}\n" for pair in self.pairs)
                     for side, code in enumerate(("zh", "en"))}  # fmt: skip
        return {name: self._packed(text) for name, text in texts.items()}

    def _whole(self) -> str:
        if self.kind in ("jsonl", "hf"):
            items: list[Any] = [{"zh": source, "en": target} for source, target in self.pairs]
            items = [{"translation": item} for item in items] if self.kind == "hf" else items
            return "".join(json.dumps(item, ensure_ascii=self.rng.random() < 0.5) + "\n" for item in items)
        header = self.rng.choice(HEADERS)
        rows = [*([header] if header else []), *self.pairs]
        if self.kind == "tsv":
            return "".join("\t".join(row) + "\n" for row in rows)
        text = io.StringIO()
        quoting = self.rng.choice((csv.QUOTE_ALL, csv.QUOTE_MINIMAL))
        delimiter = "," if self.kind == "csv" else "\t"
        csv.writer(text, delimiter=delimiter, quoting=quoting, lineterminator="\n").writerows(rows)
        return text.getvalue()

    def _packed(self, text: str) -> bytes:
        data = ("\ufeff" * self.marked + text).encode(self.encoding)
        if self.compression == "zstd":
            import zstandard

            return zstandard.ZstdCompressor(write_checksum=True).compress(data)
        return {"": bytes, "gzip": gzip.compress, "xz": lzma.compress, "bzip2": bz2.compress}[self.compression](data)

    def verdict(self, folder: Path) -> str:
        """ "accepted", "refused", or what is wrong."""
        from regard.config import DataConfig
        from regard.data.corpus import read_pairs, remarks
        from regard.errors import RegardError

        files = self.files()
        if self.harm:
            name = self.rng.choice(sorted(files))
            whole, files[name] = files[name], damaged(files[name], self.rng, TAILS, WHOLES)
            self.harm = whole != files[name]
        for name, data in files.items():
            (folder / name).write_bytes(data)
        entry = str(folder / ("c" if self.kind == "two" else next(iter(files))))
        settings = DataConfig(train=(entry,), valid=entry, source="zh", target="en")
        try:
            remarks(entry, settings)
            found = [(pair.source, pair.target) for pair in read_pairs(entry, settings)]
        except RegardError as error:
            return self._refusal(str(error))
        if self.encoding != "utf-8" and not self.harm:
            return f"{self.encoding} was read"
        if any("\0" in side for pair in found for side in pair):
            return "a NUL was read"
        if (self.compression or not self.harm) and self.encoding == "utf-8" and found != self.pairs:
            return f"{len(found)} pairs of {len(self.pairs)} were read, or other ones"
        lines = [len(_lines(data)) for data in files.values()]
        if self.harm and not self.compression and self.kind == "two" and {len(found)} != {*lines}:
            return f"{len(found)} pairs of {lines} lines were read"
        return "accepted"

    def _refusal(self, message: str) -> str:
        if "\n" in message or len(message) > 1000:
            return f"not one line: {message!r}"
        if self.harm:
            return "refused"
        if self.encoding == "utf-8":
            return f"whole, and refused: {message}"
        return "refused" if f"iconv -f {self.encoding} " in message else f"{self.encoding}, and said: {message}"


def _lines(data: bytes) -> list[bytes]:
    return data.split(b"\n")[: None if data[-1:] != b"\n" and data else -1]


def cases(seed: int, numbers: Iterable[int], folder: Path) -> Iterator[Case]:
    """Each case is a corpus, in the folder ``folder/case``, read by this process."""
    place = folder / "case"
    for number in numbers:
        corpus = Corpus(rng_of(seed, number))
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        label = f"{corpus.kind}, {corpus.compression or 'plain'}, {corpus.encoding}"
        yield Case(number, label, partial(_attempt, corpus, place))


def _attempt(corpus: Corpus, place: Path) -> Outcome:
    started = time.monotonic()
    try:
        verdict = corpus.verdict(place)
    except Exception as error:  # whatever is no RegardError would have been a traceback
        verdict = f"{type(error).__name__}: {error}"
    said = f"{len(corpus.pairs)} pairs, {'damaged' if corpus.harm else 'whole'}"
    return Outcome(verdict, time.monotonic() - started, said=said)
