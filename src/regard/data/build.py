"""Building the shards: learn the tokenizers, tokenize and check every example, write the arrays."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from regard.config import DataConfig
from regard.data.checks import Duplicates, Overlap, Report, has_text, misaligned
from regard.data.columns import Column, Example, is_pairs, is_stream, texts_of
from regard.data.examples import files_of, read_examples, remarks
from regard.data.labels import check_labels, count_labels, described, number_of
from regard.data.shards import Corpus, Writer
from regard.data.streams import Piece, check_key, grouped, is_one_document, read_documents
from regard.errors import RegardError
from regard.files import write
from regard.schema import Entry
from regard.text.normalize import normalizer
from regard.text.tokenizer import Tokenizer

CHUNK = 2000  # examples tokenized at a time
INFO = "data.json"

Say = Callable[[str], None]
Item = TypeVar("Item")


@dataclass(frozen=True)
class Job:
    """All that shards are made of. ``after``: ids between the documents of a stream.

    ``labels``: name → number, of the model to start from; empty: those of the training data, sorted.
    """

    data: DataConfig
    columns: tuple[Column, ...]
    fingerprint: str
    after: tuple[int, ...]
    say: Say
    tokenizers: tuple[Tokenizer, Tokenizer] | None  # None: to be learnt
    labels: dict[str, int]
    specials: tuple[str, ...] = ()  # further special tokens of vocabularies that are learnt

    def examples(self) -> Iterator[tuple[int, Example]]:
        """Every example of all training corpora, with the number of its corpus."""
        for number, entry in enumerate(self.data.train):
            for example in read_examples(entry, self.data, self.columns):
                yield number, example

    def documents(self) -> Iterator[tuple[int, Piece]]:
        """The same for a stream: the pieces of all documents."""
        for number, entry in enumerate(self.data.train):
            for piece in read_documents(entry, self.data, self.columns):
                yield number, piece

    def writer(self, folder: Path, name: str) -> Writer:
        """The writer of one corpus."""
        sizes = [
            len(self.labels) if column.kind == "label" else max(self._tokenizer(column).size, *self.after, 0)
            for column in self.columns
        ]
        return Writer(folder, name, self.columns, sizes)

    def encode(self, examples: Sequence[Example]) -> Iterator[tuple[Sequence[int], ...]]:
        """The ids of each example, one row for each column."""
        columns = []
        for number, column in enumerate(self.columns):
            if column.kind == "label":
                columns.append([[number_of(one.values[number], self.labels, one.where)] for one in examples])
            else:
                columns.append(self._tokenizer(column).encode_batch([one.values[number] for one in examples]))
        return zip(*columns, strict=True)

    def _tokenizer(self, column: Column) -> Tokenizer:
        assert self.tokenizers is not None  # learnt before anything is tokenized
        return self.tokenizers[column.tokenizer]


def build(folder: Path, job: Job) -> None:
    """Write tokenizers, shards and ``data.json`` into ``folder``."""
    data = job.data
    evaluated = {name: getattr(data, name) for name in ("valid", "test") if getattr(data, name)}
    if is_stream(job.columns):
        check_key((*data.train, *evaluated.values()), job.columns)
    for entry in dict.fromkeys((*data.train, *evaluated.values())):
        for line in remarks(entry, data, job.columns):
            job.say(line)
    if job.labels:
        for entry in dict.fromkeys((*data.train, *evaluated.values())):
            check_labels(read_examples(entry, data, job.columns), job.columns, job.labels, "model to start from")
    overlap = Overlap(normalizer(data.normalize))
    for name, entry in evaluated.items():
        if is_stream(job.columns):
            _refuse_empty(name, entry, job)
        else:
            overlap.expect(name, _with_text(name, read_examples(entry, data, job.columns), job.columns))
    if counts := count_labels((example for _, example in job.examples()), job.columns):
        job.say(described(counts))
        if not job.labels:
            job = replace(job, labels={label: number for number, label in enumerate(counts)})
            for entry in evaluated.values():
                check_labels(read_examples(entry, data, job.columns), job.columns, job.labels)
    if job.tokenizers is None:
        job.say(f"learning {data.vocabulary:,} subwords, or as many as the text gives")
        job = replace(job, tokenizers=_with_specials(learn_tokenizers(job, overlap), job.specials))
    _write_tokenizers(folder, job)
    job.say("tokenizing")
    if is_stream(job.columns):
        report, corpora = Report(), {}
        for name, entries in {"train": data.train, **{name: (entry,) for name, entry in evaluated.items()}}.items():
            corpora[name] = _write_stream(folder, name, entries, job, report if name == "train" else Report())
    else:
        report, info = _write_training(folder, job, overlap)
        corpora = {"train": info}
        for name, entry in evaluated.items():
            corpora[name] = _write_evaluation(folder, name, entry, job)
    document: dict[str, Any] = {"fingerprint": job.fingerprint, "corpora": corpora, "report": report.as_dict()}
    if job.labels:
        document["labels"] = list(job.labels)
    write(folder / INFO, (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode())


def _with_specials(pair: tuple[Tokenizer, Tokenizer], names: Sequence[str]) -> tuple[Tokenizer, Tokenizer]:
    source, target = pair
    if not names:
        return pair
    extended = source.with_specials(names)
    return extended, extended if target is source else target.with_specials(names)


def _write_tokenizers(folder: Path, job: Job) -> None:
    assert job.tokenizers is not None
    source, target = job.tokenizers
    source.write(folder / "tokenizer.json")
    if target is not source:
        target.write(folder / "target_tokenizer.json")


def _with_text(name: str, examples: Iterable[Example], columns: Sequence[Column]) -> Iterator[Example]:
    """The sides of an evaluation corpus; at its end an error if no example has text in every column."""
    count = found = 0
    for example in examples:
        count += 1
        found += has_text(*texts_of(example, columns))
        yield _sides(example, columns)
    if not found:
        what = "pairs has text on both sides" if is_pairs(columns) else "examples has text"
        raise RegardError(f"data.{name}: none of its {count:,} {what}: there is nothing to score")


def _refuse_empty(name: str, entry: Entry, job: Job) -> None:
    """Raise if a stream has no visible character."""
    if not any(has_text(piece.text) for piece in read_documents(entry, job.data, job.columns)):
        raise RegardError(f"data.{name}: {entry} has no text: there is nothing to score")


def learn_tokenizers(job: Job, overlap: Overlap) -> tuple[Tokenizer, Tokenizer]:
    """Learn one vocabulary of all texts of the training data, or one for the texts of each tokenizer."""
    data = job.data

    def train(lines: Iterable[str], *, continued: bool = False) -> Tokenizer:
        return Tokenizer.train(
            lines, data.tokenizer, data.vocabulary, data.normalize, data.character_coverage, continued=continued
        )

    def texts(*tokenizers: int) -> Iterator[str]:
        chosen = [n for n, column in enumerate(job.columns) if column.kind == "text" and column.tokenizer in tokenizers]
        for _, example in job.examples():
            if not (data.remove_overlap and overlap.meets(_sides(example, job.columns))):
                yield from (example.values[number] for number in chosen)

    if is_stream(job.columns):
        # The space stands for the sign before the first word of a document.
        one = train((" " * piece.first + piece.text for _, piece in job.documents()), continued=True)
        return one, one
    if data.joint or not any(column.tokenizer for column in job.columns):
        joint = train(texts(0, 1))
        return joint, joint
    return train(texts(0)), train(texts(1))


def _sides(example: Example, columns: Sequence[Column]) -> Example:
    """The example as overlap is looked for: by each side of a pair, else by all texts together."""
    texts = texts_of(example, columns)
    return example._replace(values=texts if is_pairs(columns) else ("\0".join(texts),))


def _write_training(folder: Path, job: Job, overlap: Overlap) -> tuple[Report, dict[str, Any]]:
    """Tokenize and check all training examples, and write the kept ones as the corpus ``train``."""
    data, report, duplicates = job.data, Report(), Duplicates()
    pairs = is_pairs(job.columns)
    if data.remove_overlap:
        report.removed = (*report.removed, "overlap")
    with job.writer(folder, "train") as writer:
        for chunk in _chunks(_checked(job, report, overlap)):
            for (corpus, example), ids in zip(chunk, job.encode([example for _, example in chunk]), strict=True):
                sizes = [len(row) for row, column in zip(ids, job.columns, strict=True) if column.kind == "text"]
                if (max(sizes) if pairs else sum(sizes)) > data.max_length:
                    report.note("too_long", example.where)
                    continue
                if pairs and misaligned(sizes[0], sizes[1], data.max_ratio):
                    report.note("misaligned", example.where)
                duplicates.add(*example.values)
                writer.add(example.values, ids, corpus, _line(example.where))
        report.left_out = report.examples - writer.count
        info = writer.info([files_of(entry, data, job.columns)[0] for entry in data.train])
    if not writer.count:
        report.unit = unit_of(job.columns)
        raise RegardError(f"data.train: no {report.unit} is left to train on: {'; '.join(report.lines())}")
    count, first = duplicates.found()
    if count:
        report.note("duplicate", Corpus(folder, "train", info, "", job.columns).where(first), count)
    report.overlap = overlap.found()
    return report, info


def _checked(job: Job, report: Report, overlap: Overlap) -> Iterator[tuple[int, Example]]:
    """The training examples that pass the checks of their text; the others are counted in ``report``."""
    for number, example in job.examples():
        report.examples += 1
        texts = [text.strip() for text in texts_of(example, job.columns)]
        met = overlap.meets(_sides(example, job.columns))
        if met:
            report.note("overlap", f"{example.where} = {met}")
        if not all(texts):
            report.note("empty", example.where)
        elif met and job.data.remove_overlap:
            continue
        else:
            if is_pairs(job.columns) and texts[0] == texts[1]:
                report.note("identical", example.where)
            yield number, example


def _write_evaluation(folder: Path, name: str, entry: Entry, job: Job) -> dict[str, Any]:
    """Write every example of an evaluation corpus, also those without text, so that line N stays line N."""
    with job.writer(folder, name) as writer:
        for chunk in _chunks(read_examples(entry, job.data, job.columns)):
            for example, ids in zip(chunk, job.encode(chunk), strict=True):
                writer.add(example.values, ids, 0, _line(example.where))
        return writer.info(files_of(entry, job.data, job.columns)[:1])


def _write_stream(folder: Path, name: str, entries: Sequence[Entry], job: Job, report: Report) -> dict[str, Any]:
    """Write the pieces of all documents; ``report`` counts the documents."""
    assert job.tokenizers is not None
    tokenizer = job.tokenizers[0]
    after = [] if is_one_document(entries) else list(job.after)
    with job.writer(folder, name) as writer:
        for number, entry in enumerate(entries):
            path = files_of(entry, job.data, job.columns)[0]
            pieces = _with_content(read_documents(entry, job.data, job.columns), path, report)
            for chunk in _chunks(pieces if tokenizer.cut else grouped(pieces)):
                starts = iter(tokenizer.encode_batch([piece.text for piece in chunk if piece.first]))
                others = iter(tokenizer.encode_batch([p.text for p in chunk if not p.first], continued=True))
                for piece in chunk:
                    ids = next(starts if piece.first else others)
                    writer.add((piece.text,), (ids + after if piece.last else ids,), number, piece.line)
        info = writer.info([files_of(entry, job.data, job.columns)[0] for entry in entries]) | {"after": after}
    if not writer.count:
        raise RegardError(f"data.{name}: no document is left: {'; '.join(report.lines())}")
    return info


def _with_content(pieces: Iterable[Piece], path: str, report: Report) -> Iterator[Piece]:
    """The pieces without rows that have no text, which are counted."""
    for piece in pieces:
        report.examples += piece.first
        if piece.first and piece.last and not piece.text.strip():
            report.note("empty", f"{path}:{piece.line}")
            report.left_out += 1
        else:
            yield piece


def unit_of(columns: Sequence[Column]) -> str:
    """The name of an example in messages."""
    return "pair" if is_pairs(columns) else "document" if is_stream(columns) else "text"


def _line(where: str) -> int:
    return int(where.rpartition(":")[2])


def _chunks(items: Iterable[Item]) -> Iterator[list[Item]]:
    items = iter(items)
    while chunk := list(islice(items, CHUNK)):
        yield chunk
