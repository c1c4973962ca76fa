"""The model directory: all that is needed to run a model, in files that hold data and never code.

``config.json`` (format_version, architecture, options), ``model.safetensors`` (tied tensors once), ``text.json``,
``tokenizer.json`` (+ ``target_tokenizer.json`` where the two differ), ``README.md`` (the model card), and
``manifest.json`` with the SHA-256 of the others, written last. A run's directory is such a directory too.
"""

from __future__ import annotations

import contextlib
import importlib.resources
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from regard import files, manifest
from regard.errors import RegardError, RegardWarning, nearest
from regard.header import read_shapes
from regard.models import registry
from regard.models.contract import Model
from regard.regular import JSON_LIMIT, read_bytes, read_json, read_regular
from regard.text.settings import TextSettings
from regard.text.tokenizer import Tokenizer

FORMAT_VERSION = 1
CONFIG, WEIGHTS, TEXT, CARD = "config.json", "model.safetensors", "text.json", "README.md"
FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
TOKENIZER, TARGET_TOKENIZER = "tokenizer.json", "target_tokenizer.json"
FILES = (CONFIG, WEIGHTS, TEXT, TOKENIZER, TARGET_TOKENIZER, CARD)


@dataclass(frozen=True)
class Loaded:
    """A model in evaluation mode, its settings, tokenizers and card. A joint tokenizer is both of the tokenizers."""

    model: Model
    options: Any
    settings: TextSettings
    tokenizer: Tokenizer
    target_tokenizer: Tokenizer
    card: str
    path: Path


def save(
    folder: Path | str,
    model: Model,
    options: registry.Options,
    settings: TextSettings,
    tokenizer: Tokenizer,
    target_tokenizer: Tokenizer | None = None,
    card: str = "",
    dtype: torch.dtype | None = None,
) -> Path:
    """Write a model directory by the write protocol; into a run's directory, beside what else is there.

    ``dtype`` is that of the stored weights (a packaged model has fp16); None keeps theirs.
    """
    folder = Path(folder)
    two = target_tokenizer is not None and target_tokenizer.fingerprint != tokenizer.fingerprint
    weights = stored(model, dtype)
    _check_finite(weights, folder / WEIGHTS)
    described = registry.to_dict(options)
    config = {"format_version": FORMAT_VERSION, "architecture": described.pop("architecture"), "options": described}

    def writer(inside: Path) -> None:
        write_tensors(inside / WEIGHTS, weights)
        files.write(inside / CONFIG, (json.dumps(config, indent=2) + "\n").encode())
        files.write(inside / CARD, card.encode("utf-8", "replace"))
        settings.write(inside / TEXT)
        tokenizer.write(inside / TOKENIZER)
        if two and target_tokenizer is not None:
            target_tokenizer.write(inside / TARGET_TOKENIZER)

    files.write_folder(folder, writer, name="model")
    return folder


def load(name_or_path: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> Loaded:
    """Read a model directory, or a packaged model by its name; every fault is a RegardError that names the file.

    A directory without a manifest is read unchecked, with a ``RegardWarning``.
    """
    folder = find(name_or_path)
    if os.path.lexists(folder / manifest.MANIFEST):
        manifest.verify(folder, FILES)
    else:
        said = f"{folder}: unchecked: there is no {manifest.MANIFEST} to compare the model's files with"
        warnings.warn(said, RegardWarning, stacklevel=2)
    options = read_options(folder / CONFIG)
    shapes = read_shapes(folder / WEIGHTS)
    _check_layers(folder, options, shapes)
    settings = TextSettings.read(folder / TEXT)
    rows = _rows(shapes)
    tokenizer = Tokenizer.read(folder / TOKENIZER, settings.normalize, rows)
    target_tokenizer = tokenizer
    if os.path.lexists(folder / TARGET_TOKENIZER):
        target_tokenizer = Tokenizer.read(folder / TARGET_TOKENIZER, settings.normalize, rows)
    _check_ids(folder / TEXT, settings, tokenizer, target_tokenizer)
    sizes = (tokenizer.size, None if target_tokenizer is tokenizer else target_tokenizer.size)
    model: Any = _build(folder, options, sizes, shapes)
    try:
        model = model.to(torch.device(device), dtype).eval()
    except (RuntimeError, AssertionError) as error:  # torch has no one exception for "no such device"
        raise RegardError(f"device '{device}' cannot be used: {str(error).splitlines()[0]}") from error
    card = folder / CARD
    text = read_bytes(card, JSON_LIMIT).decode("utf-8", "replace") if os.path.lexists(card) else ""
    return Loaded(model, options, settings, tokenizer, target_tokenizer, text, folder)


def outline(folder: Path) -> tuple[Any, tuple[int, int | None]]:
    """The options of a model directory and the sizes of its vocabularies; its weights may be absent."""
    options, rows = read_options(folder / CONFIG), None
    if os.path.lexists(folder / WEIGHTS):
        shapes = read_shapes(folder / WEIGHTS)
        _check_layers(folder, options, shapes)
        rows = _rows(shapes)
    sizes = [Tokenizer.read(folder / TOKENIZER, (), rows).size]
    if os.path.lexists(folder / TARGET_TOKENIZER):
        sizes.append(Tokenizer.read(folder / TARGET_TOKENIZER, (), rows).size)
    return options, (sizes[0], sizes[1] if sizes[1:] else None)


def find(name_or_path: str | Path) -> Path:
    """The directory that a MODEL means: an existing directory wins over a packaged name."""
    path = Path(name_or_path)
    if path.is_dir():
        folder = files.current(path)
        if (folder / CONFIG).exists():
            return folder
        earlier = path / files.PREVIOUS
        if (earlier / CONFIG).exists() and not earlier.is_symlink():
            return earlier
        if (path / files.MOVING).is_dir():
            raise RegardError(
                f"{path}: a training was stopped while it replaced this run; put it back with: regard train --resume "
                f"{quote(str(path))}"
            )
        if (path / "checkpoints").is_dir():
            raise RegardError(
                f"{path}: the training has not chosen a model yet (regard train --resume {quote(str(path))})"
            )
        packaged = " (a packaged model has this name; the directory wins)" if path.name in packaged_names() else ""
        raise RegardError(f"{path / CONFIG}: no such file: {path} is not a model directory{packaged}")
    if path.exists():
        raise RegardError(f"{path}: expected a model directory, found a file")
    names = packaged_names()
    if str(name_or_path) in names:
        return _packages() / str(name_or_path)
    known = f"; packaged: {', '.join(names)}" if names else ""
    raise RegardError(
        f"{name_or_path}: no such directory or packaged model{nearest(str(name_or_path), names) or known}"
    )


def packaged_names() -> list[str]:
    """The models that come with the package."""
    folder = _packages()
    return sorted(path.name for path in folder.iterdir() if (path / CONFIG).is_file()) if folder.is_dir() else []


def read_options(path: Path) -> Any:
    """The architecture's options from a ``config.json``."""
    config = read_json(path)
    version = config.pop("format_version", None)
    if version != FORMAT_VERSION or isinstance(version, bool):
        raise RegardError(f"{path}: unknown format_version {version!r:.40}: this regard reads {FORMAT_VERSION}")
    architecture, options = config.pop("architecture", None), config.pop("options", None)
    if not isinstance(architecture, str) or not isinstance(options, dict):
        raise RegardError(f"{path}: expected 'architecture' (a name) and 'options' (a table)")
    for key in config:
        raise RegardError(
            f"{path}: unknown key {key!r:.100}{nearest(key, ['format_version', 'architecture', 'options'])}"
        )
    if {"architecture", "preset"} & set(options):
        raise RegardError(f"{path}: 'options' holds the options themselves, no architecture or preset")
    try:
        return registry.options_from({"architecture": architecture, **options})
    except RegardError as error:
        raise RegardError(f"{path}: {error}") from None


def stored(model: Model, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """The state dict as it is written: on the CPU, contiguous, tied tensors once."""
    ties: Mapping[str, str] = getattr(model, "ties", {})
    return {
        name: tensor.detach().to("cpu", dtype if tensor.is_floating_point() else None).contiguous()
        for name, tensor in model.state_dict().items()
        if name not in ties
    }


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file; inside a folder that is written as a whole, which also syncs it."""
    with files.writing(path, sum(tensor.nbytes for tensor in tensors.values())):
        path.touch()
        mode = path.stat().st_mode  # what the umask says; safetensors makes its files readable by the owner only
        safetensors.torch.save_file({name: tensor.detach() for name, tensor in tensors.items()}, path)
        path.chmod(mode)


def read_tensors(path: Path, *, named: bool = False) -> dict[str, Tensor]:
    """Read a safetensors file into memory of its own: a mapped file that is cut short kills the reader.

    ``named``: the user named this very file, so that links may lead anywhere.
    """
    data = read_regular(path, None if named else path.parent, None)
    try:
        return safetensors.torch.load(data)
    except Exception as error:  # the parser's own exception, or KeyError, ValueError, … of what it read
        raise RegardError(f"{path}: damaged, not a safetensors file ({' '.join(str(error).split())[:100]})") from error


def _check_layers(folder: Path, options: Any, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse more layers than there are tensors: a billion layers fill the memory even without weights."""
    layers = registry.layers(options)
    if layers > len(shapes):
        raise RegardError(f"{folder / CONFIG}: {layers} layers, but {WEIGHTS} has {len(shapes)} tensors")


def _rows(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """The largest side of any tensor, which no vocabulary of the model exceeds."""
    return max((side for shape in shapes.values() for side in shape), default=0)


def _build(
    folder: Path, options: registry.Options, sizes: tuple[int, int | None], shapes: Mapping[str, tuple[int, ...]]
) -> Model:
    """Build the model and read its weights, once the names and ``shapes`` in the file are known to be the model's."""
    path = folder / WEIGHTS
    with _naming(folder / CONFIG), torch.device("meta"), registry.Uninitialized():
        sketch = options.build(*sizes)
    wanted, ties = sketch.state_dict(), getattr(sketch, "ties", {})
    expected = {name: list(tensor.shape) for name, tensor in wanted.items() if name not in ties}
    for name in sorted(expected.keys() | shapes.keys()):
        if name not in shapes:
            raise RegardError(f"{path}: '{name}' {expected[name]} is missing")
        if name not in expected:
            raise RegardError(f"{path}: {name!r:.100} does not belong to this model{nearest(name, expected)}")
        if list(shapes[name]) != expected[name]:
            found = str(list(shapes[name]))
            raise RegardError(f"{path}: '{name}' is {found:.60}, but {CONFIG} and {TOKENIZER} make it {expected[name]}")
    weights = read_tensors(path)
    for name, tensor in weights.items():
        if name not in expected or list(tensor.shape) != expected[name]:
            raise RegardError(f"{path}: it changed while it was read; expected a file at rest")
        kinds = FLOATS if wanted[name].is_floating_point() else (wanted[name].dtype,)
        if tensor.dtype not in kinds:
            raise RegardError(f"{path}: '{name}' is {tensor.dtype}, expected {wanted[name].dtype}")
    _check_finite(weights, path)
    with (
        _naming(folder / CONFIG),
        torch.random.fork_rng(devices=[]),
        registry.Uninitialized(),
    ):  # fresh weights must not move the caller's streams
        model = options.build(*sizes)
    model.load_state_dict({**weights, **{left_out: weights[kept] for left_out, kept in ties.items()}})
    return model


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Errors inside name the file that describes the model."""
    try:
        yield
    except RegardError as error:
        raise RegardError(f"{path}: {error}") from None
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise RegardError(f"{path}: no model can be built from it: {' '.join(str(error).split())[:150]}") from error


def _check_finite(weights: Mapping[str, Tensor], path: Path) -> None:
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise RegardError(f"{path}: '{name}' holds numbers that are not finite (NaN or infinity)")


def _check_ids(path: Path, settings: TextSettings, tokenizer: Tokenizer, target_tokenizer: Tokenizer) -> None:
    for special, size in ((settings.ids("source"), tokenizer.size), (settings.ids("target"), target_tokenizer.size)):
        for name, ids in special.items():
            if (number := max(ids, default=0)) >= size:
                raise RegardError(f"{path}: '{name}' holds {number}, but the vocabulary has {size} entries")


def _packages() -> Path:
    return Path(str(importlib.resources.files("regard"))) / "packaged"
