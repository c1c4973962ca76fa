"""Files from strangers: a FIFO, a device or a link out of the folder is one line at once, never a hang or a leak."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from regard import directory, files
from regard.config import read_config
from regard.errors import RegardError
from regard.models.transformer import Transformer
from regard.regular import open_regular, read_regular
from regard.text.settings import TextSettings
from regard.text.tokenizer import Tokenizer

pytestmark = pytest.mark.filterwarnings("ignore::regard.errors.RegardWarning")
NAMES = ("config.json", "model.safetensors", "text.json", "tokenizer.json", "README.md", "manifest.json")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = Transformer(width=8, heads=2, feedforward=16, encoder_layers=1, decoder_layers=1)
    tokenizer = Tokenizer.train(["a man rides a horse", "我爱机器学习"], vocabulary=280)
    folder = tmp_path_factory.mktemp("model") / "zh-en"
    return directory.save(folder, options.build(tokenizer.size), options, TextSettings(), tokenizer)


@pytest.fixture
def model(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "zh-en"))


def fifo(path: Path) -> None:
    os.mkfifo(path)


def sock(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the address of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path.name)
    finally:
        os.chdir(here)


def linked_to(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


SPECIAL: dict[str, tuple[Callable[[Path], None], str]] = {
    "FIFO": (fifo, "expected a regular file, found a FIFO"),
    "socket": (sock, "expected a regular file, found a socket"),
    "folder": (Path.mkdir, "expected a regular file, found a folder"),
    "/dev/zero": (linked_to("/dev/zero"), "a link out of its folder"),
    "/etc/passwd": (linked_to("/etc/passwd"), "a link out of its folder"),
    "nothing": (linked_to("nowhere"), "no such file|a link to nothing"),
    "itself": (lambda path: path.symlink_to(path.name), "cannot be read|no such file"),
}


@pytest.mark.parametrize("manifest", [True, False], ids=["manifest", "bare"])
@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("name", NAMES)
def test_no_file_of_a_model_is_waited_for_or_read_from_elsewhere(
    model: Path, name: str, kind: str, manifest: bool
) -> None:
    make, message = SPECIAL[kind]
    if not manifest:
        (model / "manifest.json").unlink()
    (model / name).unlink(missing_ok=True)
    make(model / name)
    with pytest.raises(RegardError, match=message) as caught:
        directory.load(model)
    assert "\n" not in str(caught.value) and name in str(caught.value)


def test_a_device_that_is_named_itself() -> None:
    with pytest.raises(RegardError, match="/dev/zero: expected a regular file, found a device"):
        open_regular(Path("/dev/zero"))
    with pytest.raises(RegardError, match="/dev/zero: expected a regular file, found a device"):
        read_config(Path("/dev/zero"))
    with pytest.raises(RegardError, match=r"changed while it was read|cannot be read"):
        read_regular(Path("/proc/self/status"))


def test_links_inside_the_folder_and_a_folder_that_is_a_link(model: Path, tmp_path: Path) -> None:
    (model / "real").mkdir()
    shutil.move(model / "config.json", model / "real" / "config.json")
    (model / "config.json").symlink_to("real/config.json")
    (tmp_path / "linked").symlink_to(model)
    assert directory.load(tmp_path / "linked").settings == TextSettings()


def test_a_hugging_face_cache_is_one_folder(model: Path, tmp_path: Path) -> None:
    cached = tmp_path / "hub" / "models--some--model"
    snapshot = cached / "snapshots" / "0123abcd"
    (cached / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for index, name in enumerate(NAMES):
        shutil.copy(model / name, cached / "blobs" / str(index))
        (snapshot / name).symlink_to(f"../../blobs/{index}")
    assert directory.load(snapshot).settings == TextSettings()
    (snapshot / "text.json").unlink()
    shutil.copy(model / "text.json", tmp_path / "hub" / "text.json")
    (snapshot / "text.json").symlink_to("../../../text.json")
    with pytest.raises(RegardError, match=r"text\.json: a link out of its folder, to "):
        directory.load(snapshot)


def test_a_name_like_that_of_a_cache_opens_no_other_folder(model: Path, tmp_path: Path) -> None:
    """Only of a model in ``snapshots/`` may links lead elsewhere, and only to ``blobs/`` and ``snapshots/``."""
    named = tmp_path / "models--mine"
    for inner in ("some/folder", "snapshots/0123"):
        place = Path(shutil.copytree(model, named / inner))
        shutil.copy(model / "text.json", named / "text.json")
        (place / "text.json").unlink()
        (place / "text.json").symlink_to("../../text.json")
        with pytest.raises(RegardError, match=r"text\.json: a link out of its folder, to "):
            directory.load(place)


@pytest.mark.parametrize("late", ["checked", "opened"])
def test_a_link_that_takes_the_place_of_a_checked_file_is_not_followed(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: str
) -> None:
    """The file is swapped for a link out of the folder after its path was followed, or just before it is opened."""
    (tmp_path / "secret").write_text("hidden", "utf-8")
    path = model / "text.json"

    def swap() -> None:
        path.unlink(missing_ok=True)
        path.symlink_to(tmp_path / "secret")

    module, name = (os.path, "realpath") if late == "checked" else (os, "open")
    real = getattr(module, name)

    def swapping(place: os.PathLike[str] | str, *more: Any, **options: Any) -> Any:
        if late == "opened" and str(place).endswith("text.json"):
            swap()
        found = real(place, *more, **options)
        if late == "checked" and str(place).endswith("text.json"):
            swap()
        return found

    monkeypatch.setattr(module, name, swapping)
    with pytest.raises(RegardError, match=r"text\.json: "):
        read_regular(path, model)


def test_a_linked_folder_inside_a_manifest_leads_nowhere(model: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key").write_text("hidden", "utf-8")
    (model / "sub").symlink_to(tmp_path / "secret")
    data = json.loads((model / "manifest.json").read_text("utf-8"))
    data["files"]["sub/key"] = {"bytes": 6, "sha256": "0" * 64}
    (model / "manifest.json").write_text(json.dumps(data), "utf-8")
    with pytest.raises(RegardError, match="sub/key: a link out of its folder"):
        directory.load(model)


def test_a_commit_that_is_a_link_is_neither_read_nor_finished(model: Path, tmp_path: Path) -> None:
    """And what a manifest lists below a linked folder is not deleted from there."""
    elsewhere = Path(shutil.copytree(model, tmp_path / "elsewhere"))
    (model / ".commit").symlink_to(elsewhere)
    assert files.current(model) == model
    files.finish(model)
    assert (elsewhere / "config.json").exists()
    (model / ".commit").unlink()
    (model / "sub").symlink_to(elsewhere)
    data = json.loads((model / "manifest.json").read_text("utf-8"))
    data["files"]["sub/config.json"] = {"bytes": 6, "sha256": "0" * 64}
    (model / "manifest.json").write_text(json.dumps(data), "utf-8")
    shutil.copytree(elsewhere, model / ".commit")
    files.finish(model)
    assert (elsewhere / "config.json").exists()


def test_a_size_that_no_such_file_has_is_not_read(model: Path) -> None:
    (model / "manifest.json").unlink()
    for name in ("config.json", "text.json", "tokenizer.json", "model.safetensors"):
        kept = (model / name).read_bytes()
        os.truncate(model / name, 1 << 42)  # a hole: it takes no room on the disk
        with pytest.raises(RegardError, match=rf"{name}: .* bytes"):
            directory.load(model)
        (model / name).write_bytes(kept)


@pytest.mark.parametrize("name", ["\ud800", "a\x00b", "../x", "/etc/passwd", ".", "./config.json", "a//b", "x" * 5000])
def test_a_manifest_of_names_that_cannot_be_is_damaged(model: Path, name: str) -> None:
    data = json.loads((model / "manifest.json").read_text("utf-8"))
    data["files"][name] = {"bytes": 1, "sha256": "0" * 64}
    (model / "manifest.json").write_text(json.dumps(data), "utf-8")
    with pytest.raises(RegardError, match=r"manifest\.json: damaged at the entry|missing, but manifest|too long"):
        directory.load(model)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "manifest.json"])
def test_a_file_that_the_manifest_leaves_out_is_not_used_unchecked(model: Path, name: str) -> None:
    data = json.loads((model / "manifest.json").read_text("utf-8"))
    del data["files"][name]
    (model / "manifest.json").write_text(json.dumps(data), "utf-8")
    with pytest.raises(RegardError, match=rf"{name}: manifest\.json does not list it, so that it is unchecked"):
        directory.load(model)


def test_a_second_tokenizer_beside_the_manifest_is_a_fault(model: Path) -> None:
    shutil.copy(model / "tokenizer.json", model / "target_tokenizer.json")
    with pytest.raises(RegardError, match=r"target_tokenizer\.json: manifest\.json does not list it"):
        directory.load(model)


def test_the_command_line_does_not_wait_for_a_fifo(model: Path, tmp_path: Path) -> None:
    for name in ("manifest.json", "config.json"):
        (model / name).unlink()
    os.mkfifo(model / "config.json")
    os.mkfifo(tmp_path / "run.toml")
    for arguments in (["params", str(model)], ["train", str(tmp_path / "run.toml")]):
        command = [sys.executable, "-m", "regard", *arguments]
        done = subprocess.run(command, capture_output=True, timeout=60, check=False)
        assert done.returncode == 2 and b"expected a regular file, found a FIFO" in done.stderr
