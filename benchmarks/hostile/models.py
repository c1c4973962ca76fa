"""Model directories that are damaged, swapped, unlisted, linked elsewhere, or made with ill will."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from hostile import (
    Case,
    chosen,
    damage_json,
    damaged,
    fresh,
    make_models,
    rewrite_manifest,
    rng_of,
    strange_text,
)
from hostile.command import attempt

COUNT = 1500
NAMES = ("config.json", "model.safetensors", "text.json", "tokenizer.json", "README.md", "manifest.json")
JSON = ("config.json", "text.json", "tokenizer.json", "manifest.json")


def cases(seed: int, numbers: Iterable[int], folder: Path) -> Iterator[Case]:
    """Each case is one model directory, ``folder/case``, given to one of the verbs that read it."""
    original, other = make_models(folder / "originals")
    for name, text in (("zh", "一二\n三\n"), ("en", "one two\nthree\n")):
        (folder / name).write_text(text, "utf-8")
    place = folder / "case"
    verbs = [["translate", str(place)]] * 6 + [
        ["params", str(place)],
        ["translate", str(place), "--dtype", "int8", "--beam", "2"],
        ["score", str(place), "--source", str(folder / "zh"), "--target", str(folder / "en")],
    ]
    for number in numbers:
        rng = rng_of(seed, number)
        model = fresh(original, place)
        name, change = chosen(rng, KINDS)
        label = change(model, other, rng)
        # Half of the mutants are consistent: their hashes are right, as those of whoever makes them would be.
        how = "as it was"
        if name not in ("manifest", "special file"):
            how = rng.choice(("rewritten", "rewritten", "removed", "as it was"))
            if how == "rewritten":
                rewrite_manifest(model)
            elif how == "removed":
                (model / "manifest.json").unlink(missing_ok=True)
        yield Case(number, f"{name}: {label}; manifest {how}", partial(attempt, rng.choice(verbs), folder))


def _bytes(model: Path, other: Path, rng: random.Random) -> str:
    name = rng.choice(NAMES)
    (model / name).write_bytes(damaged((model / name).read_bytes(), rng))
    return name


def _json(model: Path, other: Path, rng: random.Random) -> str:
    name = rng.choice(JSON)
    (model / name).write_text(damage_json((model / name).read_text("utf-8"), rng), "utf-8", "surrogatepass")
    return name


def _header(model: Path, other: Path, rng: random.Random) -> str:
    """The header of the weights is another; its length is right, or not."""
    path = model / "model.safetensors"
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    text = damage_json(data[8 : 8 + length].decode("utf-8"), rng).encode("utf-8", "surrogatepass")
    size = rng.choice((len(text),) * 5 + (0, 1, len(text) + 1, 1 << 27, (1 << 64) - 1))
    path.write_bytes(size.to_bytes(8, "little") + text + data[8 + length :])
    return f"a header of {size} bytes"


def _weights(model: Path, other: Path, rng: random.Random) -> str:
    """Numbers, types, shapes and names of the tensors are others; the file itself is sound."""
    import safetensors.torch
    import torch

    path = model / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    name = rng.choice(sorted(tensors))
    tensor = tensors[name]
    number = rng.choice((float("nan"), float("inf"), -float("inf"), 3e38, -3e38, 1e-45, 0.0, 1e6))
    changes: dict[str, Callable[[], Any]] = {
        f"all {number}": lambda: tensors.update({name: torch.full_like(tensor, number)}),
        f"one {number}": lambda: tensor.view(-1)[rng.randrange(tensor.numel())].fill_(number),
        "every tensor large": lambda: tensors.update({key: value * 1e30 for key, value in tensors.items()}),
        "integers": lambda: tensors.update({name: tensor.to(rng.choice((torch.int8, torch.int64, torch.bool)))}),
        "half": lambda: tensors.update({name: tensor.to(rng.choice((torch.float16, torch.bfloat16, torch.float64)))}),
        "eight bits": lambda: tensors.update({name: tensor.to(torch.float8_e4m3fn)}),
        "missing": lambda: tensors.pop(name),
        "renamed": lambda: tensors.update({strange_text(rng): tensors.pop(name)}),
        "one more": lambda: tensors.update({f"{name}{strange_text(rng)}": torch.zeros(2)}),
        "flat": lambda: tensors.update({name: tensor.reshape(-1)}),
        "a side more": lambda: tensors.update({name: tensor[None].clone()}),
        "a row less": lambda: tensors.update({name: tensor[:-1].clone()}),
        "a row more": lambda: tensors.update({name: torch.cat([tensor, tensor[:1]])}),
        "empty": lambda: tensors.update({name: tensor[:0].clone()}),
        "none at all": tensors.clear,
    }
    kind = rng.choice(list(changes))
    changes[kind]()
    safetensors.torch.save_file(tensors, path)
    return f"{name} {kind}"


def _swapped(model: Path, other: Path, rng: random.Random) -> str:
    names = rng.sample(NAMES, rng.choice((1, 2, 3)))
    for name in names:
        shutil.copy(other / name, model / name)
    if rng.random() < 0.3:
        shutil.copy(other / "tokenizer.json", model / "target_tokenizer.json")
        names.append("target_tokenizer.json")
    return ", ".join(names)


def _manifest(model: Path, other: Path, rng: random.Random) -> str:
    """The manifest lists less, more, or names that cannot be."""
    path = model / "manifest.json"
    manifest = json.loads(path.read_text("utf-8"))
    entries = manifest["files"]
    name = rng.choice(sorted(entries))
    names = (
        "\ud800",
        "a\0b",
        "..",
        "../x",
        "/etc/passwd",
        "a/../config.json",
        "./config.json",
        "x" * 5000,
        "",
        "/",
        ".",
    )
    changes: dict[str, Callable[[], Any]] = {
        "one file left out": lambda: entries.pop(name),
        "the card alone": lambda: manifest.update(files={"README.md": entries["README.md"]}),
        "an odd name": lambda: entries.update({rng.choice(names): entries[name]}),
        "an odd name for a file": lambda: entries.update({rng.choice(names): entries.pop(name)}),
        "many names": lambda: entries.update({f"x{index}": entries[name] for index in range(10_000)}),
        "another size": lambda: entries[name].update(bytes=rng.choice((-1, 0, 1 << 80, "1", None, 1.5))),
        "another hash": lambda: entries[name].update(
            sha256=rng.choice(("", "0" * 64, None, 7, entries[name]["bytes"]))
        ),
        "another version": lambda: manifest.update(format_version=rng.choice((0, 2, "1", None, True, 1.0, [1]))),
        "no entries": lambda: manifest.update(files=rng.choice(({}, [], None, "config.json", {"config.json": []}))),
    }
    kind = rng.choice(list(changes))
    changes[kind]()
    path.write_text(json.dumps(manifest), "utf-8")
    return kind


def _special(model: Path, other: Path, rng: random.Random) -> str:
    """A FIFO, a socket, a folder, a hole of a terabyte, or a link in the place of a file."""
    name = rng.choice((*NAMES, "target_tokenizer.json", ".commit"))
    path = model / name
    path.unlink(missing_ok=True)
    targets = ("/dev/zero", "/dev/random", "/dev/tty", "/etc/passwd", "/proc/self/mem", "/proc/self/fd/0", "nowhere",
               name, "..", str(other / name), "config.json")  # fmt: skip
    target = rng.choice(targets)
    changes: dict[str, Callable[[], Any]] = {
        "a FIFO": lambda: os.mkfifo(path),
        "a socket": lambda: _socket(path),
        "a folder": path.mkdir,
        "a hole": lambda: (path.touch(), os.truncate(path, 1 << 40)),
        f"a link to {target}": lambda: path.symlink_to(target),
    }
    kind = rng.choices(list(changes), (1, 1, 1, 1, 4))[0]
    changes[kind]()
    if rng.random() < 0.5 and name != "manifest.json":
        (model / "manifest.json").unlink(missing_ok=True)
    return f"{name} is {kind}"


def _socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the address of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path.name)
    finally:
        os.chdir(here)


def _missing(model: Path, other: Path, rng: random.Random) -> str:
    names = rng.sample(NAMES, rng.choice((1, 1, 2, 5)))
    for name in names:
        (model / name).unlink()
    return ", ".join(names)


KINDS: dict[str, tuple[int, Callable[[Path, Path, random.Random], str]]] = {
    "bytes": (5, _bytes),
    "JSON": (6, _json),
    "header": (3, _header),
    "weights": (4, _weights),
    "swapped": (1, _swapped),
    "manifest": (2, _manifest),
    "special file": (2, _special),
    "missing": (1, _missing),
}
