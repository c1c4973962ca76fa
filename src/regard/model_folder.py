"""What the readers of model folders share (directory.py, interop/published.py): a model without memory, and checks."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import torch

from regard.errors import RegardError
from regard.models import registry
from regard.models.contract import Model
from regard.models.description import Vocabulary
from regard.regular import JSON_LIMIT, read_bytes
from regard.text.marks import source_marks, target_start
from regard.text.settings import TextSettings

CARD = "README.md"


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors inside become RegardErrors of one line that name the file."""
    try:
        yield
    except RegardError as error:
        raise RegardError(f"{path}: {error}") from None
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise RegardError(f"{path}: no model can be built from it: {' '.join(str(error).split())[:150]}") from error


def build_without_memory(options: registry.Options, vocabulary: Vocabulary) -> Model:
    """The model on the meta device; no random numbers are drawn."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"), registry.Uninitialized():
        return options.build(*vocabulary)


def check_layers(options: registry.Options, tensors: int) -> None:
    """Refuse more layers than there are ``tensors``: a billion layers fill the memory even without weights."""
    layers = registry.layers(options)
    if layers > tensors:
        raise RegardError(f"{layers} layers, but there are {tensors} tensors")


def check_ids(settings: TextSettings, vocabulary: Vocabulary) -> None:
    """Refuse special ids for which the tables of source and target have no row."""
    source, target = vocabulary[0], vocabulary[0] if vocabulary[1] is None else vocabulary[1]
    for special, size in ((settings.ids("source"), source), (settings.ids("target"), target)):
        for name, ids in special.items():
            if (number := max(ids, default=0)) >= size:
                raise RegardError(f"'{name}' holds {number}, but the vocabulary has {size} entries")


def check_marks(settings: TextSettings, model: Model, generates: bool) -> None:
    """Refuse marks that leave no room for a text, or for an output, in a model of learned positions."""
    longest = model.longest
    if longest is None:
        return
    for language in settings.languages or ("",):
        if model.has_source or not generates:
            count = sum(map(len, source_marks(settings, language)))
            if count >= longest:
                raise RegardError(f"{count} marks stand around a text, and the model has learnt {longest} positions")
        if generates and (count := len(target_start(settings, language))) >= longest:
            raise RegardError(f"{count} marks stand before an output, and the model has learnt {longest} positions")


def usable_device(device: str | torch.device) -> torch.device:
    """The device; a RegardError where this machine has none such."""
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:  # torch has no one exception for "no such device"
        raise RegardError(f"device '{device}' cannot be used: {str(error).splitlines()[0]}") from error
    return found


def read_card(folder: Path) -> str:
    """The model card; "" where the folder has none."""
    path = folder / CARD
    return read_bytes(path, JSON_LIMIT).decode("utf-8", "replace") if os.path.lexists(path) else ""
