"""Reads folders of published models as ``save_pretrained`` wrote them, and writes such folders."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from regard import files
from regard.directory import CONFIG, TOKENIZER, Loaded
from regard.errors import RegardError, nearest
from regard.interop import specials
from regard.interop.family import Family
from regard.interop.post_processor import post_processor
from regard.interop.specials import GENERATING, GENERATION, SPECIALS_MAP, TOKENIZER_CONFIG, ParsedFiles
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
from regard.models.assign import Replacing, assign, names
from regard.models.description import Vocabulary
from regard.regular import parse_json, read_bytes, read_json
from regard.text.settings import TextSettings
from regard.text.tokenizer import Tokenizer
from regard.weights import INDEX, WEIGHTS, Stored, open_weights, write_tensors

# model_type → "module:family", imported when it is first used
FAMILIES = {
    "bert": "regard.interop.bert:BERT",
    "llama": "regard.interop.llama:LLAMA",
    "marian": "regard.interop.marian:MARIAN",
    "t5": "regard.interop.t5:T5",
}
FILES = (CONFIG, TOKENIZER, GENERATION, TOKENIZER_CONFIG, SPECIALS_MAP)  # that are read beside the weights
PICKLED = "pytorch_model.bin"


def is_published(config: Mapping[str, Any]) -> bool:
    """Whether a ``config.json`` is one of a published model, and not of a model directory of regard."""
    return "model_type" in config and "format_version" not in config


def family_of(config: Mapping[str, Any]) -> Family:
    """The tables of a model's family; an unknown one raises and lists those that are known."""
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        hint = nearest(kind, FAMILIES) if isinstance(kind, str) else ""
        raise RegardError(f"model_type = {kind!r:.60}: regard reads {', '.join(FAMILIES)}{hint}")
    module, name = FAMILIES[kind].split(":")
    found: Family = getattr(importlib.import_module(module), name)
    return found


def load(
    folder: Path | str,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    replacing: Replacing | None = None,
) -> Loaded:
    """Read a published folder; every fault is a RegardError of one line that names the file.

    ``replacing``: see ``regard.directory.load``. Without a tokenizer in the folder the model takes ids. Loading takes
    the memory of the weights and of one tensor more, or of those few from which one of ours is made.
    """
    folder = Path(folder)
    config, found = _config_and_weights(folder)
    weights = folder / (INDEX if os.path.lexists(folder / INDEX) else WEIGHTS)
    with naming(folder / CONFIG):
        family = family_of(config)
        options, sizes = _outline(family, config, found)
        task, positions = family.task(config), family.values(config)[family.positions.key]
        model: Any = build_without_memory(options, sizes)
    rows = max(size for size in sizes if size is not None)
    tokenizer, parsed = _tokenizer_and_files(folder, config, rows)
    with naming(folder):
        if tokenizer is not None and tokenizer.size > sizes[0]:
            raise RegardError(f"{TOKENIZER} has {tokenizer.size} entries, but {CONFIG} has a vocabulary of {sizes[0]}")
        settings = specials.settings_from(task, positions, parsed)
        check_ids(settings, sizes)
        check_marks(settings, model, generates=task in GENERATING)
    with naming(weights):
        ours = {name: tuple(tensor.shape) for name, tensor in names(model).items()}
        tensors = family.readable(options, config, found, ours)
    assign(model, tensors, dtype, usable_device(device), replacing)
    return Loaded(model.eval(), options, settings, tokenizer, tokenizer, read_card(folder), folder, task, sizes)


def outline(folder: Path) -> tuple[Any, Vocabulary]:
    """Our options of a published folder and the sizes of its vocabularies; of the weights only the header is read."""
    config, found = _config_and_weights(folder)
    with naming(folder / CONFIG):
        return _outline(family_of(config), config, found)


def write(loaded: Loaded, folder: Path | str) -> Path:
    """Write a published folder that the ``transformers`` library reads; what it cannot hold is an error of one line."""
    folder = Path(folder)
    settings = loaded.settings
    if settings is None:
        raise RegardError(f"{loaded.path}: a model without text has no place in this format")
    model: Any = loaded.model
    family, config, tensors = _exported(model, loaded.options)
    generation = specials.generation_config(settings, loaded.task)
    config |= specials.config_ids(settings, loaded.task)
    config.setdefault(family.positions.key, specials.positions_for(settings, loaded.task))
    written = {CONFIG: config, **({GENERATION: generation} if loaded.task in GENERATING else {})}
    if loaded.tokenizer is not None:
        if loaded.target_tokenizer is not None and loaded.target_tokenizer.fingerprint != loaded.tokenizer.fingerprint:
            raise RegardError(f"{loaded.path}: two tokenizers, and this format holds one")
        written[TOKENIZER] = _tokenizer(loaded.tokenizer, settings, loaded.task)
        written[TOKENIZER_CONFIG] = _tokenizer_config(loaded.tokenizer, settings, loaded.task)

    def writer(inside: Path) -> None:
        write_tensors(inside / WEIGHTS, {name: tensor.detach().to("cpu") for name, tensor in tensors.items()})
        for name, content in written.items():
            files.write(inside / name, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())
        files.write(inside / CARD, loaded.card.encode("utf-8", "replace"))

    files.write_folder(folder, writer, name="export")
    return folder


def _exported(model: Any, options: Any) -> tuple[Family, dict[str, Any], dict[str, torch.Tensor]]:
    """The first family that holds the model, with its configuration and tensors."""
    architecture, reasons = registry.architecture_of(options), []
    model.options = options
    for kind in FAMILIES:
        family = family_of({"model_type": kind})
        if family.architecture != architecture:
            continue
        try:
            return family, *family.export_model(model)
        except RegardError as error:
            reasons.append(str(error))
    raise RegardError("; ".join(reasons) or f"no published family holds models of architecture {architecture}")


def _config_and_weights(folder: Path) -> tuple[dict[str, Any], dict[str, Stored]]:
    """The configuration, and the tensors by their names in the files."""
    config = read_json(folder / CONFIG)
    _check_weights(folder)
    return config, open_weights(folder)


def _outline(family: Family, config: Mapping[str, Any], found: Mapping[str, Stored]) -> tuple[Any, Vocabulary]:
    options = family.options_from(config, family.names(config, found))
    check_layers(options, len(found))
    return options, family.sizes(config, options)


def _check_weights(folder: Path) -> None:
    """Refuse a folder without safetensors, and say how pickled weights are converted."""
    if any(os.path.lexists(folder / name) for name in (WEIGHTS, INDEX)):
        return
    if os.path.lexists(folder / PICKLED) or os.path.lexists(folder / f"{PICKLED}.index.json"):
        raise RegardError(
            f"{folder / PICKLED}: pickled weights can run code, and are not read: convert them with transformers: "
            "AutoModel….from_pretrained(FOLDER).save_pretrained(OUT) writes model.safetensors"
        )
    raise RegardError(f"{folder / WEIGHTS}: no such file")


def _tokenizer_and_files(folder: Path, config: Mapping[str, Any], rows: int) -> tuple[Tokenizer | None, ParsedFiles]:
    """The tokenizer, if there is one, and what the folder says of ids."""
    tokenizer = Tokenizer.read(folder / TOKENIZER, (), rows) if os.path.lexists(folder / TOKENIZER) else None
    raw = {} if tokenizer is None else parse_json(read_bytes(folder / TOKENIZER).decode("utf-8"))
    generation, tokenizer_config, specials_map = (
        read_json(folder / name) if os.path.lexists(folder / name) else {}
        for name in (GENERATION, TOKENIZER_CONFIG, SPECIALS_MAP)
    )

    def number(token: str) -> int | None:
        return None if tokenizer is None else tokenizer.inner.token_to_id(token)

    return tokenizer, ParsedFiles(config, generation, raw, tokenizer_config, specials_map, number)


def _tokenizer(tokenizer: Tokenizer, settings: TextSettings, task: str) -> dict[str, Any]:
    """Their ``tokenizer.json``: ours, with the marks and the normalisation that ours has elsewhere."""
    content = dict(tokenizer.description)
    if settings.normalize not in ((), ("nfc",)):
        raise RegardError(f"normalize = {list(settings.normalize)}: this format holds [] or ['nfc']")
    if settings.normalize:
        steps = content["normalizer"]
        first, rest = {"type": "NFC"}, steps["normalizers"] if (steps or {}).get("type") == "Sequence" else [steps]
        content["normalizer"] = {"type": "Sequence", "normalizers": [first, *(step for step in rest if step)]}
    content["post_processor"] = post_processor(settings, task, lambda number: tokenizer.tokens([number])[0])
    return content


def _tokenizer_config(tokenizer: Tokenizer, settings: TextSettings, task: str) -> dict[str, Any]:
    """Their ``tokenizer_config.json``: which tokens have which roles."""
    ids = {"pad_token": settings.pad, "unk_token": settings.unk, "mask_token": settings.mask}
    if task in GENERATING:
        ids["eos_token"] = settings.ends[0] if settings.ends else None
    if task == "language_model":
        ids["bos_token"] = settings.start[0] if settings.start else None
    if task not in GENERATING:
        ids["cls_token"] = settings.source_before[0] if settings.source_before else None
        ids["sep_token"] = settings.source_after[0] if settings.source_after else None
    named = {role: tokenizer.tokens([number])[0] for role, number in ids.items() if number is not None}
    longest = specials.positions_for(settings, task)
    return {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": longest, **named}
