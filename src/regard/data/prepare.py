"""From the files that a configuration names to a tokenizer and shards, once; the next run finds them.

What was built is kept with the SHA-256 of everything it was built from: the bytes of the corpora, the settings and the
version of this code. When that agrees and no file is damaged, nothing is read again. A lock on the folder lets
several processes prepare the same data: the first builds, the others wait and find it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from regard.config import Config, DataConfig
from regard.data.checks import Duplicates, Overlap, Report, has_text, misaligned
from regard.data.corpus import Pair, files_of, open_lines, read_pairs, remarks
from regard.data.reading import bare
from regard.data.shards import Corpus, Writer
from regard.data.tables import ENDINGS
from regard.errors import RegardError
from regard.files import finish, locked, read_json, verify, write, write_folder
from regard.schema import Entry
from regard.text.normalize import normalizer
from regard.text.settings import TextSettings
from regard.text.tokenizer import Tokenizer

VERSION = 1  # of the shards' format and of everything that decides what they hold
TABLES = 2  # of how tables are read
CHUNK = 2000  # pairs tokenized at a time
INFO = "data.json"

Say = Callable[[str], None]
Item = TypeVar("Item")


@dataclass(frozen=True)
class Prepared:
    """Everything a training reads. ``target_tokenizer`` is ``tokenizer`` itself when the vocabulary is joint."""

    train: Corpus
    valid: Corpus
    test: Corpus | None
    tokenizer: Tokenizer
    target_tokenizer: Tokenizer
    settings: TextSettings
    report: Report
    fingerprint: str


class OtherData(Exception):
    """The corpora or the settings are not those that were expected."""


def prepare(
    config: Config,
    folder: Path,
    *,
    tokenizers: tuple[Tokenizer, Tokenizer] | None = None,
    expected: str = "",
    say: Say = lambda line: None,
) -> Prepared:
    """Find or build the shards of a configuration.

    They go to ``folder``, or where ``data.cache`` is set to a folder of their own below that, named by fingerprint, so
    that many configurations share one cache. ``tokenizers`` (source, target) are used in place of learning new ones:
    for a run that starts from a trained model, whose normalisation then holds too. With another fingerprint than the
    ``expected`` one nothing is read or written: ``OtherData`` is raised.
    """
    data = config.data
    if tokenizers is not None:
        data = replace(data, normalize=tokenizers[0].normalization)
    fingerprint = _fingerprint(data, tokenizers)
    if expected and fingerprint != expected:
        raise OtherData
    if data.cache:
        folder = Path(data.cache) / fingerprint[:16]
    with locked(folder.with_name(f".{folder.name}.lock")):
        reason = _fault(folder, fingerprint)
        if reason:
            if folder.exists():
                say(f"{folder}: {reason}; building it again")
            write_folder(folder, lambda place: _build(place, data, fingerprint, tokenizers, say), name="shards")
            reason = _fault(folder, fingerprint)
            if reason:
                raise RegardError(f"{folder}: just written, but {reason}")
        return _open(folder, data)


def _fault(folder: Path, fingerprint: str) -> str:
    """Why the folder cannot be used as it is; "" when it can."""
    if not folder.is_dir():
        return "not there"
    try:
        finish(folder)
        verify(folder)
        found = read_json(folder / INFO).get("fingerprint")
    except RegardError as error:
        return str(error)
    return "" if found == fingerprint else "made from other data or settings"


def _fingerprint(data: DataConfig, tokenizers: tuple[Tokenizer, Tokenizer] | None) -> str:
    """SHA-256 of the corpora's bytes and of the settings that decide what becomes of them."""
    digest = hashlib.sha256()
    for name, listed in _entries(data).items():
        for entry in listed:
            for path in files_of(entry, data):
                if path == "-":
                    raise RegardError(f"data.{name}: standard input can be read only once; save it to a file first")
                table = f" table {TABLES}" if bare(path).endswith(ENDINGS) else ""
                digest.update(f"{name} {Path(path).name}{table} {_hash(path)}\n".encode())
    keys = ["source", "target", "source_key", "target_key", "max_length", "max_ratio", "remove_overlap", "normalize"]
    if tokenizers is None:
        keys += ["tokenizer", "vocabulary", "joint", "character_coverage"]
    settings: dict[str, Any] = {key: getattr(data, key) for key in keys}
    settings["tokenizers"] = [item.fingerprint for item in tokenizers or ()]
    digest.update(json.dumps([VERSION, settings], sort_keys=True).encode())
    return digest.hexdigest()


def _entries(data: DataConfig) -> dict[str, list[Entry]]:
    return {"train": list(data.train), "valid": [data.valid], "test": [data.test] if data.test else []}


def _hash(path: str) -> str:
    next(open_lines(path), None)  # a file that cannot be opened is a clear error here
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _build(
    folder: Path, data: DataConfig, fingerprint: str, tokenizers: tuple[Tokenizer, Tokenizer] | None, say: Say
) -> None:
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
    """The pairs of an evaluation corpus; an error at its end when none of them has text on both sides."""
    count = found = 0
    for pair in pairs:
        count += 1
        found += has_text(pair.source, pair.target)
        yield pair
    if not found:
        raise RegardError(f"data.{name}: none of its {count:,} pairs has text on both sides: there is nothing to score")


def _open(folder: Path, data: DataConfig) -> Prepared:
    info = read_json(folder / INFO)
    tokenizer = Tokenizer.read(folder / "tokenizer.json", data.normalize)
    separate = folder / "target_tokenizer.json"
    target = Tokenizer.read(separate, data.normalize) if separate.exists() else tokenizer
    corpora = {name: Corpus(folder, name, values, info["fingerprint"]) for name, values in info["corpora"].items()}
    for name, entries in _entries(data).items():
        if name in corpora:
            corpora[name].files = [files_of(entry, data)[0] for entry in entries]  # where they are now
    settings = TextSettings(
        source=data.source,
        target=data.target,
        normalize=data.normalize,
        max_length=_learnt_length(corpora["train"]),
    )
    # What no corpus has in it is never an output, however unsure a young model is.
    settings = replace(settings, suppressed=(settings.pad, settings.unk, settings.bos))
    return Prepared(
        corpora["train"],
        corpora["valid"],
        corpora.get("test"),
        tokenizer,
        target,
        settings,
        Report.from_dict(info["report"]),
        info["fingerprint"],
    )


def _learnt_length(corpus: Corpus) -> int:
    """The length that 999 of 1,000 training sources do not exceed: a single long one teaches a model nothing."""
    return max(int(np.quantile(corpus.lengths[0], 0.999, method="higher")), 16)


def training_pairs(data: DataConfig) -> Iterator[tuple[int, Pair]]:
    """Every pair of every training corpus, with the corpus's number."""
    for number, entry in enumerate(data.train):
        for pair in read_pairs(entry, data):
            yield number, pair


def learn_tokenizers(data: DataConfig, overlap: Overlap) -> tuple[Tokenizer, Tokenizer]:
    """A vocabulary of both sides of the training data, or one of each."""

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
    """Tokenize and check all training pairs; what is kept becomes the corpus ``train``."""
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
    """The training pairs that pass the checks of their text; the others are counted."""
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
    """Every pair of an evaluation corpus, empty sides included: line N stays line N."""
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
