"""Opens a model by its name or path, whatever wrote it: regard, or a library that publishes models."""

from __future__ import annotations

import os
import re
from pathlib import Path

import torch

from regard import directory
from regard.directory import CONFIG, Loaded
from regard.errors import RegardError
from regard.interop import published
from regard.regular import HUB, read_bytes, read_json


def open_model(
    name_or_path: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> Loaded:
    """Read a model directory, a packaged model by its name, or a published folder; faults are RegardErrors.

    A name ORG/NAME, where there is no such directory, is looked for in the local cache of Hugging Face's tools.
    """
    folder = Path(name_or_path)
    if re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", str(name_or_path)) and not folder.exists():
        folder = cached(str(name_or_path))
    if (folder / CONFIG).is_file() and published.is_published(read_json(folder / CONFIG)):
        return published.load(folder, device, dtype)
    return directory.load(name_or_path if folder == Path(name_or_path) else folder, device, dtype)


def cached(name: str) -> Path:
    """The folder of the published model ORG/NAME in the local cache; a RegardError says how to get one there."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface"
    cache = Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub")
    folder = cache / (HUB + name.replace("/", "--"))
    reference = folder / "refs" / "main"
    if not reference.is_file():
        raise RegardError(f"{name}: no such directory, and not in {cache}: hf download {name}")
    revision = read_bytes(reference, 100).decode("ascii", "replace").strip()
    if not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise RegardError(f"{reference}: {revision!r:.60}: expected a revision of 40 hexadecimal digits")
    return folder / "snapshots" / revision
