"""The fingerprint of prepared data: SHA-256 of all that the shards are made from."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from regard.config import DataConfig
from regard.data.columns import Column, is_pairs, is_stream
from regard.data.examples import files_of
from regard.data.reading import bare, check_opens
from regard.data.tables import ENDINGS
from regard.errors import RegardError
from regard.schema import Entry
from regard.text.tokenizer import Tokenizer

VERSION = 1  # of the shards' format and of the code on which their content depends
TABLES = 2  # of the code that reads tables


def fingerprint_of(
    data: DataConfig,
    tokenizers: tuple[Tokenizer, Tokenizer] | None,
    columns: Sequence[Column],
    after: Sequence[int] = (),
    specials: Sequence[str] = (),
    labels: Sequence[str] = (),
) -> str:
    """SHA-256 of the corpora's bytes and of the settings on which the shards depend."""
    digest = hashlib.sha256()
    for name, listed in entries_of(data).items():
        for entry in listed:
            for path in files_of(entry, data, columns):
                if path == "-":
                    raise RegardError(f"data.{name}: standard input can be read only once; save it to a file first")
                table = f" table {TABLES}" if bare(path).endswith(ENDINGS) else ""
                digest.update(f"{name} {Path(path).name}{table} {_hash(path)}\n".encode())
    keys = ["max_length", "remove_overlap", "normalize"]
    if is_pairs(columns):
        keys += ["source", "target", "source_key", "target_key", "max_ratio"]
    if tokenizers is None:
        keys += ["tokenizer", "vocabulary", "joint", "character_coverage"]
    settings: dict[str, Any] = {key: getattr(data, key) for key in keys}
    if not is_pairs(columns):
        settings["columns"] = [dataclasses.astuple(column) for column in columns]
        settings["after"] = list(after) if is_stream(columns) else []
    if specials:
        settings["specials"] = list(specials)
    if labels:
        settings["labels"] = list(labels)
    settings["tokenizers"] = [item.fingerprint for item in tokenizers or ()]
    digest.update(json.dumps([VERSION, settings], sort_keys=True).encode())
    return digest.hexdigest()


def entries_of(data: DataConfig) -> dict[str, list[Entry]]:
    """The corpora of ``train``, ``valid`` and ``test``."""
    return {"train": list(data.train), "valid": [data.valid], "test": [data.test] if data.test else []}


def _hash(path: str) -> str:
    check_opens(path)
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
