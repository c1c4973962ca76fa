"""A disk that is really full: a small tmpfs fills up under a real training.

The error is one line that names the file and the bytes it needs, the exit code is 2, every checkpoint that is there is
whole, and once there is space again the run goes on and becomes what it would have been.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tiny_run
from forkserver import Server

from regard.training import checkpoint, prove

MISSING = "missing: the right to mount a small tmpfs"
FULL = re.compile(r"^regard: error: (\S+): cannot be written: no space left on the disk( \(.*\))?; free some space.*$")
KIB = 1024


class Disk:
    """A tmpfs of a size that can be changed."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def resize(self, kib: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={kib}k", str(self.place)], check=True)

    def clear(self) -> None:
        for path in self.place.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disk]:
    place = tmp_path_factory.mktemp("disk")
    if shutil.which("mount") is None:
        pytest.skip(MISSING)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip(MISSING)
    try:
        yield Disk(place)
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny training, with so many checkpoints kept that they fill a disk; its shards lie on another."""
    folder = tmp_path_factory.mktemp("full")
    tiny_run.write(folder)
    config = folder / "config.toml"
    text = (
        config.read_text()
        .replace("keep_checkpoints = 2", "keep_checkpoints = 100")
        .replace("save_every = 10", "save_every = 4")
    )
    config.write_text(text.replace("vocabulary = 300", f'vocabulary = 300\ncache = "{folder / "cache"}"'))
    return folder


@pytest.fixture(scope="module")
def reference(server: Server, folder: Path) -> dict[str, str]:
    run = folder / "uninterrupted"
    assert server.wait(server.start(command(run), folder / "log", folder)) == 0, (folder / "log").read_text()
    return prove.fingerprint(run)


def command(run: Path, *, resume: bool = False) -> list[str]:
    return ["train", *(("--resume", str(run)) if resume else ("config.toml", "--run", str(run))), "--device", "cpu"]


def error_line(said: str) -> re.Match[str]:
    """The last line, and no traceback before it."""
    assert "Traceback" not in said and "Exception" not in said, said
    last = said.strip().splitlines()[-1]
    match = FULL.match(last)
    assert match, last
    return match


def fill(disk: Disk, folder: Path, kib: int, start: Callable[[list[str]], tuple[int, str]]) -> Path:
    """Train on a disk of so many KiB until it is full; look at what is left; returns the run."""
    disk.resize(64 * KIB)
    disk.clear()
    disk.resize(kib)
    run = disk.place / "run"
    code, said = start(command(run))
    assert code == 2, said
    match = error_line(said)
    assert match[1].startswith(str(disk.place)) and ".partial" not in match[1]
    if match[1].endswith(".safetensors"):
        assert re.search(r"\([\d,]+ bytes needed, [\d,]+ free\)", match[0]), match[0]
    for step in checkpoint.steps(run):
        assert checkpoint.load(checkpoint.folder(run, step)).step == step
    assert not list(run.rglob("*.partial"))
    return run


def test_full_disk_as_a_user_meets_it(disk: Disk, folder: Path) -> None:
    """A process of its own, nothing shared with the test: its message, its exit code, and the checkpoint before."""

    def start(arguments: list[str]) -> tuple[int, str]:
        done = subprocess.run([sys.executable, "-m", "regard", *arguments], cwd=folder, capture_output=True, text=True)
        return done.returncode, done.stderr

    run = fill(disk, folder, 1000, start)
    assert checkpoint.steps(run), "the disk was to be full only after a checkpoint"
    assert checkpoint.latest(run, pytest.fail) is not None


@pytest.mark.slow
@pytest.mark.parametrize("kib", [*range(8, 80, 8), *range(100, 1500, 130)])
def test_full_at_any_moment(disk: Disk, folder: Path, server: Server, reference: dict[str, str], kib: int) -> None:
    """Twenty sizes, so that it is full in twenty places; with space again, the run becomes what it would have been."""
    log = folder / f"log-{kib}"

    def start(arguments: list[str]) -> tuple[int, str]:
        code = server.wait(server.start(arguments, log, folder))
        return code, log.read_text()

    run = fill(disk, folder, kib, start)
    disk.resize(64 * KIB)
    resumable = (run / "run.toml").exists()
    if not resumable:
        disk.clear()
    log.unlink()
    code, said = start(command(run, resume=resumable))
    assert code == 0, said
    assert prove.fingerprint(run) == reference
    assert not list(run.rglob("*.partial"))
