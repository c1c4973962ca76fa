"""Opens a model by its name or path, whatever wrote it: regard, or a library that publishes models."""

from __future__ import annotations

from pathlib import Path

import torch

from regard import directory
from regard.accel.prepared import check_int8
from regard.accel.preparing import is_worth, read_prepared, read_quantized
from regard.directory import CONFIG, Loaded
from regard.interop import published
from regard.models.assign import Replacing
from regard.regular import read_json


def open_model(
    name_or_path: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    replacing: Replacing | None = None,
) -> Loaded:
    """Read a model directory, a packaged model by its name, or a published folder; faults are RegardErrors.

    ``replacing`` puts other modules in the place of those that have been read (models/assign.py).
    """
    folder = Path(name_or_path)
    if (folder / CONFIG).is_file() and published.is_published(read_json(folder / CONFIG)):
        return published.load(folder, device, dtype, replacing)
    return directory.load(name_or_path, device, dtype, replacing)


def open_to_run(
    name_or_path: str | Path, device: str | torch.device, dtype: torch.dtype, only_decoding: bool = False
) -> Loaded:
    """A model for a pipeline; ``torch.int8``: with products in int8 on a CPU.

    ``only_decoding``: on a CPU the weights are held once, prepared, and the model cannot be recorded, nor gives
    alignments.
    """

    def read(kind: torch.dtype, replacing: Replacing | None = None) -> Loaded:
        return open_model(name_or_path, device, kind, replacing)

    alone = only_decoding and is_worth(device, directory.find(name_or_path))
    if dtype == torch.int8:
        check_int8(device)
        return read_prepared(read, dtype) if alone else read_quantized(read)
    return read_prepared(read, dtype) if alone else read(dtype)
