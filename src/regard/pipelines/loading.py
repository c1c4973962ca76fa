"""Opens a model by its name or path, whatever wrote it: regard, or a library that publishes models."""

from __future__ import annotations

from pathlib import Path

import torch

from regard import directory
from regard.directory import CONFIG, Loaded
from regard.interop import published
from regard.regular import read_json


def open_model(
    name_or_path: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> Loaded:
    """Read a model directory, a packaged model by its name, or a published folder; faults are RegardErrors."""
    folder = Path(name_or_path)
    if (folder / CONFIG).is_file() and published.is_published(read_json(folder / CONFIG)):
        return published.load(folder, device, dtype)
    return directory.load(name_or_path, device, dtype)
