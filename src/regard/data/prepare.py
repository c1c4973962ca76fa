"""Prepares the data of a configuration: tokenizers and shards, built once and found by later runs.

The shards are kept with their fingerprint, the SHA-256 of the corpora, the settings and the version of this code. If it
agrees and no file is damaged, the corpora are not read again. A lock on the folder lets several processes prepare the
same data: the first builds, the others wait.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from regard.config import Config, DataConfig
from regard.data.build import INFO, Job, Say, build, unit_of
from regard.data.checks import Report
from regard.data.columns import Column
from regard.data.examples import files_of
from regard.data.fingerprint import entries_of, fingerprint_of
from regard.data.shards import Corpus
from regard.errors import RegardError
from regard.files import finish, locked, write_folder
from regard.manifest import verify
from regard.regular import read_json
from regard.text.specials import EOS, SPECIALS
from regard.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Prepared:
    """The data of a training. ``target_tokenizer`` is ``tokenizer`` itself if all texts have one vocabulary.

    ``labels`` are those of a classification, in the order of the model to start from, or sorted; the ids of the label
    column are their numbers.
    """

    train: Corpus
    valid: Corpus
    test: Corpus | None
    tokenizer: Tokenizer
    target_tokenizer: Tokenizer
    report: Report
    fingerprint: str
    labels: tuple[str, ...] = ()


class OtherData(Exception):
    """The corpora or settings are not the expected ones."""


def prepare(
    config: Config,
    folder: Path,
    columns: tuple[Column, ...],
    *,
    after: tuple[int, ...] = (SPECIALS.index(EOS),),
    specials: tuple[str, ...] = (),
    tokenizers: tuple[Tokenizer, Tokenizer] | None = None,
    labels: tuple[str, ...] = (),
    expected: str = "",
    say: Say = lambda line: None,
) -> Prepared:
    """Find or build the shards of a configuration, with the ``columns`` of its task.

    They are written to ``folder``, or with ``data.cache`` to a folder below that, named by fingerprint, so that many
    configurations share one cache. ``tokenizers`` (source, target), with their normalisation, are used instead of
    learning new ones, and ``labels`` with their numbers instead of the corpus's: for a run that starts from a trained
    model. ``after`` are the ids between two documents of a stream (the end mark of tokenizers that regard learns),
    ``specials`` further special tokens of vocabularies that are learnt. Raises ``OtherData``, before anything is
    written, if the fingerprint is not the ``expected`` one.
    """
    data = config.data
    if tokenizers is not None:
        data = replace(data, normalize=tokenizers[0].normalization)
    digest = fingerprint_of(data, tokenizers, columns, after, specials, labels)
    if expected and digest != expected:
        raise OtherData
    if data.cache:
        folder = Path(data.cache) / digest[:16]
    with locked(folder.with_name(f".{folder.name}.lock")):
        reason = _fault(folder, digest)
        if reason:
            if folder.exists():
                say(f"{folder}: {reason}; building it again")
            numbers = {label: number for number, label in enumerate(labels)}
            job = Job(data, columns, digest, after, say, tokenizers, numbers, specials)
            write_folder(folder, lambda place: build(place, job), name="shards")
            reason = _fault(folder, digest)
            if reason:
                raise RegardError(f"{folder}: just written, but {reason}")
        return _open(folder, data, columns)


def _fault(folder: Path, fingerprint: str) -> str:
    """Why the shards in ``folder`` cannot be used; "" when they can."""
    if not folder.is_dir():
        return "not there"
    try:
        finish(folder)
        verify(folder)
        found = read_json(folder / INFO).get("fingerprint")
    except RegardError as error:
        return str(error)
    return "" if found == fingerprint else "made from other data or settings"


def _open(folder: Path, data: DataConfig, columns: tuple[Column, ...]) -> Prepared:
    info = read_json(folder / INFO)
    tokenizer = Tokenizer.read(folder / "tokenizer.json", data.normalize)
    separate = folder / "target_tokenizer.json"
    target = Tokenizer.read(separate, data.normalize) if separate.exists() else tokenizer
    corpora = {
        name: Corpus(folder, name, values, info["fingerprint"], columns) for name, values in info["corpora"].items()
    }
    for name, entries in entries_of(data).items():
        if name in corpora:
            # A cache may have been built from the same files in another place.
            corpora[name].files = [files_of(entry, data, columns)[0] for entry in entries]
    return Prepared(
        corpora["train"],
        corpora["valid"],
        corpora.get("test"),
        tokenizer,
        target,
        Report.from_dict(info["report"], unit_of(columns)),
        info["fingerprint"],
        tuple(info.get("labels", ())),
    )


def learnt_length(corpus: Corpus) -> int:
    """The 99.9th percentile of the training sources' lengths: a model learns nothing from a few longer ones."""
    return max(int(np.quantile(corpus.lengths[0], 0.999, method="higher")), 16)
