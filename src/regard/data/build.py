"""Building the shards: learn the tokenizers, tokenize and check every pair, write the arrays."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from regard.config import DataConfig
from regard.data.checks import Duplicates, Overlap, Report, has_text, misaligned
from regard.data.corpus import Pair, files_of, read_pairs, remarks
from regard.data.shards import Corpus, Writer
from regard.errors import RegardError
from regard.files import write
from regard.schema import Entry
from regard.text.normalize import normalizer
from regard.text.tokenizer import Tokenizer

CHUNK = 2000  # pairs tokenized at a time
INFO = "data.json"

Say = Callable[[str], None]
Item = TypeVar("Item")


def build(
    folder: Path, data: DataConfig, fingerprint: str, tokenizers: tuple[Tokenizer, Tokenizer] | None, say: Say
) -> None:
    """Write tokenizers, shards and ``data.json`` into ``folder``."""
    for entry in dict.fromkeys((*data.train, data.valid, *([data.test] if data.test else []))):
        for line in remarks(entry, data):
            say(line)
    overlap = Overlap(normalizer(data.normalize))
    for name in ("valid", "test"):
        entry = getattr(data, name)
        if entry:
            overlap.expect(name, _with_text(name, read_pairs(entry, data)))
    if tokenizers is None:
        say(f"learning {data.vocabulary:,} subwords, or as many as the text gives")
        tokenizers = learn_tokenizers(data, overlap)
    source, target = tokenizers
    source.write(folder / "tokenizer.json")
    if target is not source:
        target.write(folder / "target_tokenizer.json")
    say("tokenizing")
    report, info = _write_training(folder, data, tokenizers, overlap)
    corpora = {"train": info}
    for name in ("valid", "test"):
        entry = getattr(data, name)
        if entry:
            corpora[name] = _write_evaluation(folder, name, entry, data, tokenizers)
    document = {"fingerprint": fingerprint, "corpora": corpora, "report": report.as_dict()}
    write(folder / INFO, (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode())


def _with_text(name: str, pairs: Iterable[Pair]) -> Iterator[Pair]:
    """The pairs of an evaluation corpus; at its end an error if none has text on both sides."""
    count = found = 0
    for pair in pairs:
        count += 1
        found += has_text(pair.source, pair.target)
        yield pair
    if not found:
        raise RegardError(f"data.{name}: none of its {count:,} pairs has text on both sides: there is nothing to score")


def training_pairs(data: DataConfig) -> Iterator[tuple[int, Pair]]:
    """Every pair of all training corpora, with the number of its corpus."""
    for number, entry in enumerate(data.train):
        for pair in read_pairs(entry, data):
            yield number, pair


def learn_tokenizers(data: DataConfig, overlap: Overlap) -> tuple[Tokenizer, Tokenizer]:
    """Learn one vocabulary of both sides of the training data, or one for each side."""

    def kept() -> Iterator[Pair]:
        for _, pair in training_pairs(data):
            if not (data.remove_overlap and overlap.meets(pair)):
                yield pair

    def train(lines: Iterable[str]) -> Tokenizer:
        return Tokenizer.train(lines, data.tokenizer, data.vocabulary, data.normalize, data.character_coverage)

    if data.joint:
        joint = train(text for pair in kept() for text in (pair.source, pair.target))
        return joint, joint
    return train(pair.source for pair in kept()), train(pair.target for pair in kept())


def _write_training(
    folder: Path, data: DataConfig, tokenizers: tuple[Tokenizer, Tokenizer], overlap: Overlap
) -> tuple[Report, dict[str, Any]]:
    """Tokenize and check all training pairs, and write the kept ones as the corpus ``train``."""
    report, duplicates = Report(), Duplicates()
    if data.remove_overlap:
        report.removed = (*report.removed, "overlap")
    with Writer(folder, "train", (tokenizers[0].size, tokenizers[1].size)) as writer:
        for chunk in _chunks(_checked(data, report, overlap)):
            source_ids, target_ids = _encode([pair for _, pair in chunk], tokenizers)
            for (corpus, pair), source, target in zip(chunk, source_ids, target_ids, strict=True):
                if max(len(source), len(target)) > data.max_length:
                    report.note("too_long", pair.where)
                    continue
                if misaligned(len(source), len(target), data.max_ratio):
                    report.note("misaligned", pair.where)
                duplicates.add(pair.source, pair.target)
                line = int(pair.where.rpartition(":")[2])
                writer.add((pair.source, pair.target), (source, target), corpus, line)
        report.left_out = report.pairs - writer.count
        info = writer.info([files_of(entry, data)[0] for entry in data.train])
    if not writer.count:
        raise RegardError(f"data.train: no pair is left to train on: {'; '.join(report.lines())}")
    count, first = duplicates.found()
    if count:
        report.note("duplicate", Corpus(folder, "train", info, "").where(first), count)
    report.overlap = overlap.found()
    return report, info


def _checked(data: DataConfig, report: Report, overlap: Overlap) -> Iterator[tuple[int, Pair]]:
    """The training pairs that pass the checks of their text; the others are counted in ``report``."""
    for number, pair in training_pairs(data):
        report.pairs += 1
        source, target = pair.source.strip(), pair.target.strip()
        met = overlap.meets(pair)
        if met:
            report.note("overlap", f"{pair.where} = {met}")
        if not source or not target:
            report.note("empty", pair.where)
        elif met and data.remove_overlap:
            continue
        else:
            if source == target:
                report.note("identical", pair.where)
            yield number, pair


def _write_evaluation(
    folder: Path, name: str, entry: Entry, data: DataConfig, tokenizers: tuple[Tokenizer, Tokenizer]
) -> dict[str, Any]:
    """Write every pair of an evaluation corpus, also those with empty sides, so that line N stays line N."""
    with Writer(folder, name, (tokenizers[0].size, tokenizers[1].size)) as writer:
        for chunk in _chunks(read_pairs(entry, data)):
            for pair, source, target in zip(chunk, *_encode(chunk, tokenizers), strict=True):
                line = int(pair.where.rpartition(":")[2])
                writer.add((pair.source, pair.target), (source, target), 0, line)
        return writer.info(files_of(entry, data)[:1])


def _encode(pairs: list[Pair], tokenizers: tuple[Tokenizer, Tokenizer]) -> tuple[list[list[int]], list[list[int]]]:
    return (
        tokenizers[0].encode_batch([pair.source for pair in pairs]),
        tokenizers[1].encode_batch([pair.target for pair in pairs]),
    )


def _chunks(items: Iterator[Item]) -> Iterator[list[Item]]:
    while chunk := list(islice(items, CHUNK)):
        yield chunk
