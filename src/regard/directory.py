"""The model directory: all that is needed to run a model, in files that hold data and never code.

``config.json`` (format_version, architecture, task, options, vocabulary), ``model.safetensors`` (tied tensors once; or
shards that ``model.safetensors.index.json`` lists), ``README.md`` (the model card), and ``manifest.json`` with the
SHA-256 of the others, written last. Where the model reads text there are ``text.json`` and ``tokenizer.json`` (and
``target_tokenizer.json`` where the two differ). A run's directory is such a directory too.

Its formats: models/description.py.
"""

from __future__ import annotations

import importlib.resources
import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any, NamedTuple

import torch
from torch import Tensor

from regard import files, manifest
from regard.errors import RegardError, RegardWarning, nearest
from regard.model_folder import (
    CARD,
    build_without_memory,
    check_ids,
    check_layers,
    check_marks,
    naming,
    read_card,
    usable_device,
)
from regard.models import registry
from regard.models.assign import Made, Readable, Replacing, assign, check, is_finite
from regard.models.contract import Model
from regard.models.description import Vocabulary, config_of, read_config
from regard.text.settings import TextSettings
from regard.text.tokenizer import Tokenizer
from regard.weights import INDEX, WEIGHTS, files_of, open_weights, write_tensors

CONFIG, TEXT = "config.json", "text.json"
TOKENIZER, TARGET_TOKENIZER = "tokenizer.json", "target_tokenizer.json"
FILES = (CONFIG, WEIGHTS, INDEX, TEXT, TOKENIZER, TARGET_TOKENIZER, CARD)


class Text(NamedTuple):
    """What a model needs for text."""

    settings: TextSettings
    tokenizer: Tokenizer
    target_tokenizer: Tokenizer


@dataclass(frozen=True)
class Loaded:
    """A model in evaluation mode, its settings, tokenizers and card. A joint tokenizer is both of the tokenizers.

    A model that reads no text has no settings and no tokenizers. ``vocabulary`` (0, None): as large as the tokenizers'.
    """

    model: Model
    options: Any
    settings: TextSettings | None
    tokenizer: Tokenizer | None
    target_tokenizer: Tokenizer | None
    card: str
    path: Path
    task: str = "translation"
    vocabulary: Vocabulary = (0, None)

    def __post_init__(self) -> None:
        if self.vocabulary == (0, None):
            object.__setattr__(self, "vocabulary", sizes_of(self.tokenizer, self.target_tokenizer))

    @property
    def text(self) -> Text:
        """Settings and tokenizers; a RegardError where the model reads no text."""
        if self.settings is not None and self.tokenizer is None:  # a published folder: ours have both or none
            raise RegardError(
                f"{self.path / TOKENIZER}: no such file: without one the model takes ids alone; transformers writes "
                "one: AutoTokenizer.from_pretrained(NAME).save_pretrained(FOLDER)"
            )
        if self.settings is None or self.tokenizer is None or self.target_tokenizer is None:
            raise RegardError(f"{self.path}: this model reads no text: it has no {TEXT}")
        return Text(self.settings, self.tokenizer, self.target_tokenizer)


def save(
    folder: Path | str,
    model: Model,
    options: registry.Options,
    settings: TextSettings | None,
    tokenizer: Tokenizer | None,
    target_tokenizer: Tokenizer | None = None,
    card: str = "",
    dtype: torch.dtype | None = None,
    *,
    task: str | None = None,
    vocabulary: Vocabulary | None = None,
) -> Path:
    """Write a model directory by the write protocol; into a run's directory, beside what else is there.

    ``dtype`` is that of the stored weights (a packaged model has fp16); None keeps theirs. ``task`` None: the first of
    ``tasks_of(options)``. ``vocabulary`` None: as large as the tokenizers'.
    """
    folder = Path(folder)
    if tokenizer is None or (target_tokenizer and target_tokenizer.fingerprint == tokenizer.fingerprint):
        target_tokenizer = None
    weights = stored(model, dtype)
    _check_finite(weights, folder / WEIGHTS)
    sizes = sizes_of(tokenizer, target_tokenizer) if vocabulary is None else vocabulary
    config = config_of(options, task, sizes)
    _check_vocabulary(folder / CONFIG, sizes, tokenizer, target_tokenizer or tokenizer)
    _check_shapes(folder, options, sizes, weights)

    def writer(inside: Path) -> None:
        write_tensors(inside / WEIGHTS, weights)
        files.write(inside / CONFIG, (json.dumps(config, indent=2) + "\n").encode())
        files.write(inside / CARD, card.encode("utf-8", "replace"))
        if settings is not None:
            settings.write(inside / TEXT)
        if tokenizer is not None:
            tokenizer.write(inside / TOKENIZER)
        if target_tokenizer is not None:
            target_tokenizer.write(inside / TARGET_TOKENIZER)

    files.write_folder(folder, writer, name="model")
    return folder


def load(
    name_or_path: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    replacing: Replacing | None = None,
) -> Loaded:
    """Read a model directory, or a packaged model by its name; every fault is a RegardError that names the file.

    A directory without a manifest is read unchecked, with a ``RegardWarning``. ``replacing`` puts other modules, such
    as quantised ones, in the place of those that have been read (models/assign.py).
    """
    folder = find(name_or_path)
    if os.path.lexists(folder / manifest.MANIFEST):
        manifest.verify(folder, {*FILES, *files_of(folder)})
    else:
        said = f"{folder}: unchecked: there is no {manifest.MANIFEST} to compare the model's files with"
        warnings.warn(said, RegardWarning, stacklevel=2)
    described = read_config(folder / CONFIG)
    found = open_weights(folder)
    with naming(folder / CONFIG):
        check_layers(described.options, len(found))
    settings, tokenizer, target_tokenizer = _read_text(folder, _rows(found), described.vocabulary)
    sizes = described.vocabulary or sizes_of(tokenizer, target_tokenizer)
    _check_vocabulary(folder / CONFIG, sizes, tokenizer, target_tokenizer)
    if settings is not None:
        with naming(folder / TEXT):
            check_ids(settings, sizes)
    device = usable_device(device)
    with naming(folder / CONFIG):
        model: Any = build_without_memory(described.options, sizes)
    if settings is not None:
        with naming(folder / TEXT):
            check_marks(settings, model, registry.capabilities(registry.architecture_of(described.options)).generates)
    check(model, found, folder / WEIGHTS, f"{CONFIG} and {TOKENIZER} make")
    assign(model, found, dtype, device, replacing)
    card = read_card(folder)
    return Loaded(
        model.eval(), described.options, settings, tokenizer, target_tokenizer, card, folder, described.task, sizes
    )


def outline(folder: Path) -> tuple[Any, Vocabulary]:
    """The options of a model directory and the sizes of its vocabularies; its weights may be absent."""
    described, rows = read_config(folder / CONFIG), None
    if any(os.path.lexists(folder / name) for name in (WEIGHTS, INDEX)):
        found = open_weights(folder)
        with naming(folder / CONFIG):
            check_layers(described.options, len(found))
        rows = _rows(found)
    if described.vocabulary is not None:
        return described.options, described.vocabulary
    _, *tokenizers = _read_text(folder, rows, None)
    return described.options, sizes_of(*tokenizers)


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


def stored(model: Model, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """The state dict as it is written: on the CPU, contiguous, tied tensors once."""
    ties: Mapping[str, str] = getattr(model, "ties", {})
    return {
        name: tensor.detach().to("cpu", dtype if tensor.is_floating_point() else None).contiguous()
        for name, tensor in model.state_dict().items()
        if name not in ties
    }


def sizes_of(tokenizer: Tokenizer | None, target_tokenizer: Tokenizer | None) -> Vocabulary:
    """The vocabularies of a model that has a row for each entry of its tokenizers."""
    if tokenizer is None:
        return 0, None
    if target_tokenizer is None or target_tokenizer is tokenizer:
        return tokenizer.size, None
    return tokenizer.size, target_tokenizer.size


def _read_text(
    folder: Path, rows: int | None, vocabulary: Vocabulary | None
) -> tuple[TextSettings | None, Tokenizer | None, Tokenizer | None]:
    """Settings and tokenizers; none of them where a model of format 2 has neither ``text.json`` nor a tokenizer."""
    names = TEXT, TOKENIZER, TARGET_TOKENIZER
    if vocabulary is not None and not any(os.path.lexists(folder / name) for name in names):
        return None, None, None
    settings = TextSettings.read(folder / TEXT)
    tokenizer = Tokenizer.read(folder / TOKENIZER, settings.normalize, rows)
    if not os.path.lexists(folder / TARGET_TOKENIZER):
        return settings, tokenizer, tokenizer
    return settings, tokenizer, Tokenizer.read(folder / TARGET_TOKENIZER, settings.normalize, rows)


def _check_vocabulary(path: Path, sizes: Vocabulary, tokenizer: Tokenizer | None, target: Tokenizer | None) -> None:
    """Refuse tables that have no row for an entry of a tokenizer."""
    for size, one in ((sizes[0], tokenizer), (sizes[0] if sizes[1] is None else sizes[1], target)):
        if one is not None and size < one.size:
            raise RegardError(f"{path}: 'vocabulary' is {size}, but the tokenizer has {one.size} entries")


def _rows(found: Mapping[str, Readable]) -> int:
    """The largest side of any tensor, which no vocabulary of the model exceeds."""
    return max((side for tensor in found.values() for side in tensor.shape), default=0)


def _check_shapes(folder: Path, options: registry.Options, sizes: Vocabulary, weights: Mapping[str, Tensor]) -> None:
    """Refuse to write weights that options and vocabulary do not describe."""
    made = {name: Made(folder / WEIGHTS, tuple(tensor.shape), tensor.clone) for name, tensor in weights.items()}
    with naming(folder / CONFIG):
        model = build_without_memory(options, sizes)
    check(model, made, folder / WEIGHTS, "options and vocabulary make")


def _check_finite(weights: Mapping[str, Tensor], path: Path) -> None:
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not is_finite(tensor):
            raise RegardError(f"{path}: '{name}' holds numbers that are not finite (NaN or infinity)")


def _packages() -> Path:
    return Path(str(importlib.resources.files("regard"))) / "packaged"
