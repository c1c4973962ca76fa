"""A config.json that asks for more than its weights hold is one line before anything is built; so is a false header."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from regard import directory
from regard.errors import RegardError, RegardWarning
from regard.header import read_shapes
from regard.models import registry
from regard.text.settings import TextSettings
from regard.text.tokenizer import Tokenizer

pytestmark = pytest.mark.filterwarnings("ignore::regard.errors.RegardWarning")
SMALL: dict[str, dict[str, Any]] = {
    "transformer": {"width": 16, "heads": 2, "feedforward": 16, "encoder_layers": 1, "decoder_layers": 1},
    "rnn": {"width": 16},
    "decoder": {"width": 16, "heads": 2, "feedforward": 16, "layers": 1},
    "encoder": {"width": 16, "heads": 2, "feedforward": 16, "layers": 1},
}


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base, tokenizer = tmp_path_factory.mktemp("models"), Tokenizer.train(["a man rides a horse"], vocabulary=280)
    made = {}
    for name, values in SMALL.items():
        options = registry.options_from({"architecture": name, **values})
        made[name] = directory.save(base / name, options.build(tokenizer.size), options, TextSettings(), tokenizer)
        (made[name] / "manifest.json").unlink()
    return made


@pytest.fixture
def model(originals: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(originals["transformer"], tmp_path / "model"))


def change(folder: Path, **options: Any) -> None:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config["options"] |= options
    (folder / "config.json").write_text(json.dumps(config), "utf-8")


def regard(*arguments: object) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "regard", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, input=b"", timeout=60, check=False)


NUMBERS = [
    (name, field.name)
    for name in SMALL
    for field in dataclasses.fields(registry.options_class(name))
    if field.type == "int" and field.name != "window"  # which makes no tensor
]


@pytest.mark.parametrize(("architecture", "option"), NUMBERS)
@pytest.mark.parametrize("number", [10**30, 10**9, 400])
def test_no_option_makes_more_than_the_weights_hold(
    originals: dict[str, Path], tmp_path: Path, architecture: str, option: str, number: int
) -> None:
    folder = Path(shutil.copytree(originals[architecture], tmp_path / "model"))
    change(folder, **{option: number})
    started = time.monotonic()
    with pytest.raises(RegardError, match=r"(config\.json|model\.safetensors): ") as caught:
        directory.load(folder)
    assert time.monotonic() - started < 10 and "\n" not in str(caught.value) and len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "positions",
    [
        {"kind": "learned", "length": 10**12},
        {"kind": "learned", "length": 0},
        {"kind": "relative_bias", "buckets": 4 * 10**12, "distance": 10**14},
        {"kind": "rotary", "theta": 1e-300},
        {"kind": "rotary", "theta": -3.0},
    ],
)
def test_no_part_makes_more_than_the_weights_hold(model: Path, positions: dict[str, Any]) -> None:
    change(model, positions=positions)
    with pytest.raises(RegardError, match=r"(config\.json|model\.safetensors): "):
        directory.load(model)


def test_every_number_of_every_architecture_and_part_has_a_limit() -> None:
    assert set(SMALL) == set(registry.ARCHITECTURES), "a line for each in SMALL"
    classes = [registry.options_class(name) for name in registry.ARCHITECTURES]
    classes += [registry._imported(path) for kinds in registry.PARTS.values() for path in kinds.values()]
    for cls in classes:
        for field in dataclasses.fields(cls):
            assert field.type != "int" or field.name in registry.LARGEST, f"{cls.__name__}.{field.name}"


def test_a_billion_layers_are_one_line_of_the_command_line(model: Path) -> None:
    for layers in (300, 10**9):
        change(model, encoder_layers=layers)
        for verb in ("params", "translate"):
            done = regard(verb, model)
            said = done.stderr.decode().splitlines()
            assert done.returncode == 2 and said[-1].startswith("regard: error: ") and "layers" in said[-1], said


@pytest.mark.parametrize(
    "arguments", [("base", "--vocabulary", 10**15), ("base", "--vocabulary", 9, "--target-vocabulary", 10**25)]
)
def test_an_absurd_vocabulary_is_one_line(arguments: tuple[object, ...]) -> None:
    done = regard("params", *arguments)
    said = done.stderr.decode().splitlines()
    assert done.returncode == 2 and len(said) == 1 and said[0].startswith("regard: error: "), said


def test_an_absurd_model_of_a_configuration_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(
        '[data]\ntrain = "x"\nvalid = "x"\nsource = "zh"\ntarget = "en"\n[model]\nencoder_layers = 1000000000\n',
        "utf-8",
    )
    done = regard("params", tmp_path / "run.toml")
    assert done.returncode == 2 and b"'model.encoder_layers' is 1000000000: expected at most" in done.stderr


def test_no_value_of_a_file_fills_the_screen(model: Path) -> None:
    config = json.loads((model / "config.json").read_text("utf-8"))
    long = "a" * 5000
    for key, value in (("format_version", long), ("architecture", long), (long, 1), ("options", {"share": long})):
        (model / "config.json").write_text(json.dumps(config | {key: value}), "utf-8")
        with pytest.raises(RegardError, match=r"config\.json: ") as caught:
            directory.load(model)
        assert len(str(caught.value)) < 700


def test_a_model_without_weights_still_has_parameters(model: Path) -> None:
    (model / "model.safetensors").unlink()
    assert regard("params", model).returncode == 0


HEADERS: dict[str, Any] = {
    "no table": [1],
    "no type": {"a": {"shape": [1], "data_offsets": [0, 4]}},
    "a type of nobody": {"a": {"dtype": "F31", "shape": [1], "data_offsets": [0, 4]}},
    "a shape that is none": {"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}},
    "a shape of 2**62": {"a": {"dtype": "F32", "shape": [1 << 62, 1 << 62], "data_offsets": [0, 4]}},
    "more than there is": {"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}},
    "less than there is": {"a": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}},
    "true": {"a": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}},
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_that_does_not_fit_its_file(tmp_path: Path, name: str) -> None:
    text = json.dumps(HEADERS[name]).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"\0" * 4)
    with pytest.raises(RegardError, match=r"model\.safetensors: damaged, not a safetensors file"):
        read_shapes(path)


def test_a_header_longer_than_its_file_or_than_any(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    for data in (b"", b"\x02", (1 << 63).to_bytes(8, "little"), (5).to_bytes(8, "little") + b"{}"):
        path.write_bytes(data)
        with pytest.raises(RegardError, match="damaged, not a safetensors file"):
            read_shapes(path)
    path.write_bytes((1 << 26).to_bytes(8, "little"))
    os.truncate(path, 1 << 27)
    with pytest.raises(RegardError, match="damaged, not a safetensors file"):
        read_shapes(path)


@pytest.mark.parametrize("sides", [9, 400_000])
def test_no_time_is_lost_to_a_tensor_of_countless_sides(tmp_path: Path, sides: int) -> None:
    text = json.dumps({"a": {"dtype": "F32", "shape": [1 << 47] * sides, "data_offsets": [0, 4]}}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"\0" * 4)
    started = time.monotonic()
    with pytest.raises(RegardError, match=r"damaged, not a safetensors file .*'a' is no list of at most 8 sides"):
        read_shapes(path)
    assert time.monotonic() - started < 5


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="a regular file whose first byte cannot be read")
def test_a_header_that_the_disk_does_not_give_is_one_line() -> None:
    with pytest.raises(RegardError, match="/mem: cannot be read: Input/output error"):
        read_shapes(Path(f"/proc/{os.getpid()}/mem"))


def test_the_header_is_read_as_the_library_reads_it(tmp_path: Path) -> None:
    tensors = {"a": torch.zeros(2, 3), "b.c": torch.zeros(0, 5, dtype=torch.float16), "d": torch.tensor(True)}
    safetensors.torch.save_file(tensors, tmp_path / "x", metadata={"format": "pt"})
    assert read_shapes(tmp_path / "x") == {name: tuple(tensor.shape) for name, tensor in tensors.items()}


# --- without a manifest --------------------------------------------------------------------------------------------


def test_a_model_without_a_manifest_is_said_to_be_unchecked_once(model: Path, tmp_path: Path) -> None:
    done = regard("translate", model)
    said = done.stderr.decode().splitlines()
    assert done.returncode == 0 and len(said) == 1, said
    assert said[0] == f"regard: {model}: unchecked: there is no manifest.json to compare the model's files with"
    with pytest.warns(RegardWarning, match="unchecked"):
        loaded = directory.load(model)
    whole = directory.save(tmp_path / "x", loaded.model, loaded.options, loaded.settings, loaded.tokenizer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        directory.load(whole)


def test_203_damaged_weight_files_are_refused_or_said_to_be_unchecked(model: Path) -> None:
    """What a flipped bit of a weight is, nobody can know without a hash; what nobody could use is refused."""
    path, generator = model / "model.safetensors", random.Random(19)
    data = path.read_bytes()
    loaded = 0
    for number in range(203):
        broken = bytearray(data)
        for _ in range(generator.choice((1, 4, 64))):
            broken[generator.randrange(len(data))] = generator.randrange(256)
        path.write_bytes(broken if number % 4 else broken[: generator.randrange(len(data))])
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            try:
                directory.load(model)
                loaded += 1
            except RegardError as error:
                assert "model.safetensors" in str(error)
        assert len(said) == 1 and issubclass(said[0].category, RegardWarning)
    assert 0 < loaded < 203
