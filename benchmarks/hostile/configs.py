"""Configurations that ask for too much, or for what cannot be: config.json, run.toml, arguments of ``params``."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from hostile import NUMBERS, OTHERS, TEXTS, Case, damage_json, fresh, make_models, rewrite_manifest, rng_of, strange
from hostile.command import attempt

COUNT = 300
LARGE = (300, 10**4, 10**6, 10**9, 10**12, 10**18, 10**30, 1 << 31, 1 << 63)
PLACES = [
    {"kind": "learned", "length": 10**12},
    {"kind": "relative_bias", "buckets": 4 * 10**9, "distance": 10**12},
    {"kind": "relative_bias", "buckets": 4, "distance": 10**300},
    {"kind": "rotary", "theta": 1e-300},
    {"kind": "rotary", "theta": -1.0},
    {"kind": "sinusoidal", "interleaved": 3},
    {"kind": "os:system"},
    {"kind": {"kind": "rotary"}},
]


def cases(seed: int, numbers: Iterable[int], folder: Path) -> Iterator[Case]:
    """A third each: options of config.json with large numbers, any damage of config.json, and run.toml or arguments."""
    original, _ = make_models(folder / "originals")
    place, toml = folder / "case", folder / "run.toml"
    for number in numbers:
        rng = rng_of(seed, number)
        shutil.rmtree(place, ignore_errors=True)  # a case leaves nothing to the next one
        toml.unlink(missing_ok=True)
        if number % 3 == 2:
            label = _written(toml, rng)
            yield Case(number, label, partial(attempt, _asked(toml, rng), folder))
            continue
        model = fresh(original, place)
        path = model / "config.json"
        if number % 3:
            label = "damaged"
            path.write_text(damage_json(path.read_text("utf-8"), rng), "utf-8", "surrogatepass")
        else:
            config = json.loads(path.read_text("utf-8"))
            label = _enlarged(config, rng)
            path.write_text(json.dumps(config), "utf-8")
        if rng.random() < 0.5:
            rewrite_manifest(model)
        else:
            (model / "manifest.json").unlink()
        arguments = [rng.choice(("translate", "translate", "params")), str(model)]
        yield Case(number, f"config.json: {label}", partial(attempt, arguments, folder))


def _enlarged(config: dict[str, Any], rng: random.Random) -> str:
    """One to three options of some architecture are large; or a part is one that cannot be built."""
    from regard.models import registry

    if rng.random() < 0.3:
        config["architecture"] = rng.choice(list(registry.ARCHITECTURES))
        config["options"] = {}
    names = [key for key, kind, _, _ in registry.options_table(config["architecture"]) if kind in ("int", "float")]
    for name in rng.sample(names, rng.choice((1, 1, 2, 3))):
        config["options"][name] = rng.choice(LARGE) if rng.random() < 0.8 else rng.choice(NUMBERS)
    if rng.random() < 0.2:
        config["options"]["positions"] = rng.choice(PLACES)
    if rng.random() < 0.1:
        config["options"]["norm"] = {"kind": "layer_norm", "eps": rng.choice(NUMBERS)}
    return f"{config['architecture']} {json.dumps(config['options'])[:80]}"


def _written(path: Path, rng: random.Random) -> str:
    """A run.toml with one odd value in each of one to three places."""
    import tomli_w

    tables: dict[str, Any] = {
        "seed": 1,
        "data": {"train": "train", "valid": "valid", "source": "zh", "target": "en", "vocabulary": 300},
        "model": {"preset": rng.choice(("tiny", "base", "nobody"))},
        "training": {"steps": 3},
        "decoding": {"beam": 2},
    }
    keys = {
        "data": ("vocabulary", "max_length", "train", "normalize", "subword_dropout"),
        "model": ("encoder_layers", "width", "heads", "positions", "feedforward", "architecture", "share", "kind"),
        "training": ("steps", "batch_tokens"),
        "decoding": ("beam", "length_penalty", "n_best"),
    }
    for _ in range(rng.choice((1, 1, 2, 3))):
        section = rng.choice(("model", "model", *keys))
        value = rng.choice(PLACES) if rng.random() < 0.1 else rng.choice((*LARGE, *NUMBERS, *TEXTS, *OTHERS))
        tables[section][rng.choice(keys[section])] = "" if value is None else value
    try:
        text = tomli_w.dumps(tables)
    except (TypeError, AttributeError):  # a list of nothing, which TOML has no word for
        text = f"[model]\nwidth = {strange(rng)!r}\n"
    if rng.random() < 0.2:
        at = rng.randrange(len(text))
        text = text[:at] + rng.choice(("[", "=", '"', "\0", "\x1b[2J", "[[[[" * 500, "a.b.c.d=1\n")) + text[at:]
    path.write_text(text, "utf-8", "surrogatepass")
    return "run.toml"


def _asked(path: Path, rng: random.Random) -> list[str]:
    if rng.random() < 0.7:
        return ["params", str(path)]
    preset = rng.choice(("tiny", "base", "big", "rnn:small", "decoder:tiny"))
    more = ["--target-vocabulary", str(rng.choice(LARGE))] if rng.random() < 0.3 else []
    return ["params", preset, "--vocabulary", str(rng.choice((*LARGE, 0, -1, 37_000))), *more]
