"""Models that are missing, cut short or changed: one line that names the file, from every verb that reads one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from .conftest import Regard, refused

FILES = ("config.json", "model.safetensors", "text.json", "tokenizer.json", "manifest.json")


@pytest.fixture
def copy(model: Path, tmp_path: Path) -> Path:
    """The model's files alone, to be damaged."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for name in (*FILES, "README.md"):
        shutil.copy(model / name, folder / name)
    return folder


def test_the_copy_is_whole(copy: Path, regard: Regard) -> None:
    done = regard("translate", copy, input="一二\n".encode())
    assert done.returncode == 0 and b"one" in done.stdout


def test_no_such_model(regard: Regard, tmp_path: Path) -> None:
    message = refused(regard("translate", "nothing-here", input=b"x\n", cwd=tmp_path))
    assert message.startswith("nothing-here: no such directory or packaged model")


def test_a_folder_that_is_no_model(regard: Regard, tmp_path: Path) -> None:
    assert "config.json" in refused(regard("translate", tmp_path, input=b"x\n"))


def test_a_file_that_is_no_model(model: Path, regard: Regard) -> None:
    assert "expected a model directory" in refused(regard("translate", model / "model.safetensors", input=b"x\n"))


@pytest.mark.parametrize("name", FILES)
def test_cut_short(copy: Path, regard: Regard, name: str) -> None:
    path = copy / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert name in refused(regard("translate", copy, input=b"x\n"))


@pytest.mark.parametrize("name", FILES)
def test_one_bit_flipped(copy: Path, regard: Regard, name: str) -> None:
    data = bytearray((copy / name).read_bytes())
    data[len(data) * 2 // 3] ^= 0x10
    (copy / name).write_bytes(bytes(data))
    message = refused(regard("translate", copy, input=b"x\n"))
    assert name in message or "manifest.json" in message


@pytest.mark.parametrize("name", FILES[:-1])
def test_missing(copy: Path, regard: Regard, name: str) -> None:
    (copy / name).unlink()
    assert name in refused(regard("translate", copy, input=b"x\n"))


def test_a_format_of_the_future(copy: Path, regard: Regard) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "format_version": 99}))
    (copy / "manifest.json").unlink()
    assert "format_version 99" in refused(regard("params", copy))


@pytest.mark.parametrize(
    "verb",
    [
        ("score", "--source", "test.zh", "--target", "test.en"),
        ("evaluate", "--source", "test.zh", "--reference", "test.en"),
    ],
)
def test_the_other_verbs_say_it_too(copy: Path, workshop: Path, regard: Regard, verb: tuple[str, ...]) -> None:
    (copy / "model.safetensors").unlink()
    assert "model.safetensors" in refused(regard(verb[0], copy, *verb[1:], cwd=workshop))


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(workshop: Path, model: Path, regard: Regard) -> None:
    run = workshop / "runs" / "damaged"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(model, run)
    newest = max((run / "checkpoints").glob("step-*"), key=lambda path: int(path.name.removeprefix("step-")))
    weights = newest / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[-5] ^= 1
    weights.write_bytes(bytes(data))
    done = regard("train", "--resume", run, cwd=workshop)
    said = done.stderr.decode()
    assert done.returncode == 0, said
    assert "step-240 cannot be used, going on from step-120" in said and "weights.safetensors" in said
    assert (run / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()
    for place in (run / "checkpoints").glob("step-*"):
        (place / "record.json").unlink(missing_ok=True)
    assert "no checkpoint is whole" in refused(regard("train", "--resume", run, cwd=workshop))
