"""Opens a model by its name or path, whatever wrote it: regard, or a library that publishes models."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import torch

from regard import directory
from regard.accel.prepared import check_int8
from regard.accel.preparing import is_worth, read_prepared, read_quantized
from regard.directory import CONFIG, Loaded
from regard.errors import RegardError, nearest
from regard.interop import published
from regard.models.assign import Replacing
from regard.models.description import Vocabulary
from regard.regular import HUB, read_bytes, read_json


def open_model(
    name_or_path: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    replacing: Replacing | None = None,
) -> Loaded:
    """Read a model directory, a packaged model by its name, or a published folder; faults are RegardErrors.

    A name ORG/NAME, where there is no such directory, is looked for in the local cache of Hugging Face's tools.
    ``replacing`` puts other modules in the place of those that have been read (models/assign.py).
    """
    folder = found(name_or_path)
    if _is_published(folder):
        return published.load(folder, device, dtype, replacing)
    return directory.load(folder, device, dtype, replacing)


def outline(name_or_path: str | Path) -> tuple[Any, Vocabulary]:
    """The options of a model and the sizes of its vocabularies, without reading its weights."""
    folder = found(name_or_path)
    return published.outline(folder) if _is_published(folder) else directory.outline(directory.find(folder))


def open_to_run(
    name_or_path: str | Path, device: str | torch.device, dtype: torch.dtype, only_decoding: bool = False
) -> Loaded:
    """A model for a pipeline; ``torch.int8``: with products in int8 on a CPU.

    ``only_decoding``: on a CPU the weights may be prepared while they are read and held once; such a model cannot be
    recorded and gives no alignments.
    """

    def read(kind: torch.dtype, replacing: Replacing | None = None) -> Loaded:
        return open_model(name_or_path, device, kind, replacing)

    prepares = only_decoding and is_worth(device, directory.find(found(name_or_path)))
    if dtype == torch.int8:
        check_int8(device)
        return read_prepared(read, dtype) if prepares else read_quantized(read)
    return read_prepared(read, dtype) if prepares else read(dtype)


def found(name_or_path: str | Path) -> Path:
    """The name or path itself; of a name ORG/NAME that is no directory, its folder in the cache."""
    path = Path(name_or_path)
    is_name = re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", str(name_or_path)) is not None
    return cached(str(name_or_path)) if is_name and not path.exists() else path


def _is_published(folder: Path) -> bool:
    return (folder / CONFIG).is_file() and published.is_published(read_json(folder / CONFIG))


def cached(name: str) -> Path:
    """The folder of the published model ORG/NAME in the local cache; a RegardError says how to get one there."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface"
    cache = Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub")
    folder = cache / (HUB + name.replace("/", "--"))
    reference = folder / "refs" / "main"
    if not reference.is_file():
        beside = Path(name).parent
        if beside.is_dir():  # a run's path, mistyped, is no name of a published model
            names = [each.name for each in beside.iterdir() if each.is_dir()]
            raise RegardError(f"{name}: no such directory in {beside}{nearest(Path(name).name, names)}")
        raise RegardError(f"{name}: no such directory, and not in {cache}: hf download {name}")
    revision = read_bytes(reference, 100).decode("ascii", "replace").strip()
    if not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise RegardError(f"{reference}: {revision!r:.60}: expected a revision of 40 hexadecimal digits")
    return folder / "snapshots" / revision
