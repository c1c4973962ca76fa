"""The installed ``regard`` as a process, nothing patched, and a model that it trained in a few seconds."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from regard.files import locked

from .encoders import Run, here, write_encoders

PROGRAM = Path(sys.executable).with_name("regard")
Regard = Callable[..., "subprocess.CompletedProcess[bytes]"]

# A language of ten words and its translation, word by word: a tiny model learns it in seconds.
ENGLISH = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
WORDS = dict(zip("一二三四五六七八九十", ENGLISH, strict=True))

TINY = """\
[data]
train = "train"
valid = "valid"
source = "zh"
target = "en"
vocabulary = 330

[model]
width = 32
encoder_layers = 1
decoder_layers = 1
heads = 2
feedforward = 64
dropout = 0.05
order = "pre"

[training]
steps = 240
batch_tokens = 512
warmup_steps = 40
learning_rate = 0.01
label_smoothing = 0.0
validate_every = 120
save_every = 120
average = 2
threads = 1

[decoding]
beam = 2
length_penalty = "power:1.0"
"""


def pairs(count: int, seed: int) -> list[tuple[str, str]]:
    """Sentences of the toy language with their translations, no two alike."""
    chooser = random.Random(seed)
    found: dict[str, str] = {}
    while len(found) < count:
        words = chooser.choices(list(WORDS), k=chooser.randint(2, 4))
        found["".join(words)] = " ".join(WORDS[word] for word in words)
    return list(found.items())


def write_corpus(folder: Path, name: str, rows: list[tuple[str, str]]) -> None:
    for language, side in (("zh", 0), ("en", 1)):
        (folder / f"{name}.{language}").write_text("".join(row[side] + "\n" for row in rows), "utf-8")


@pytest.fixture(scope="session")
def regard() -> Regard:
    """``regard("translate", model, input=…)``: run the program and wait for it."""

    def run(*arguments: object, input: bytes = b"", cwd: Path | None = None, timeout: float = 120, **env: str):
        return subprocess.run(
            [PROGRAM, *map(str, arguments)],
            input=input,
            capture_output=True,
            cwd=cwd,
            timeout=timeout,
            env={**os.environ, "COLUMNS": "120", **env},
        )

    return run


@pytest.fixture(scope="session")
def workshop(regard: Regard, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train, valid and test of the toy language, tiny.toml, and the run ``runs/tiny``; only to be read.

    Made once, also where several processes run the tests.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "workshop"
    with locked(folder.with_name("workshop.lock")):
        if not (folder / "done").exists():
            folder.mkdir()
            rows = pairs(700, seed=1)
            for name, part in (("train", rows[:600]), ("valid", rows[600:640]), ("test", rows[640:])):
                write_corpus(folder, name, part)
            (folder / "tiny.toml").write_text(TINY, "utf-8")
            done = regard("train", "tiny.toml", cwd=folder)
            assert done.returncode == 0, done.stderr.decode()
            (folder / "done").touch()
    return folder


@pytest.fixture(scope="session")
def model(workshop: Path) -> Path:
    """The run directory of the tiny model."""
    return workshop / "runs" / "tiny"


@pytest.fixture(scope="session")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model directories of a classifier, a tagger and a filler, named by their tasks."""
    base = tmp_path_factory.mktemp("encoders")
    write_encoders(base)
    return base


@pytest.fixture
def run(encoders: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """``run("tag", "tagging", …)``: a verb on one of ``encoders``, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return here(encoders, capsys, monkeypatch)


def refused(done: subprocess.CompletedProcess[bytes]) -> str:
    """The message of a run that ended as a user's error must: exit 2, one line on standard error, nothing else."""
    text = done.stderr.decode()
    lines = text.splitlines()
    assert done.returncode == 2, (done.returncode, text)
    assert lines and lines[-1].startswith("regard: error: "), text
    assert "Traceback" not in text
    assert sum(line.startswith("regard: error:") for line in lines) == 1
    return lines[-1].removeprefix("regard: error: ")
