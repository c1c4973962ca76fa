"""Corpora as a run of their task reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from regard.config import Config
from regard.data import prepare as data
from regard.data.columns import Column
from regard.tasks import task_named

PAIRS = (Column("source"), Column("target", tokenizer=1))


def columns_of(config: Config) -> tuple[Column, ...]:
    return task_named(config.task).columns(config.data)


def prepare(config: Config, folder: Path, **options: Any) -> data.Prepared:
    return data.prepare(config, folder, columns_of(config), **options)
