"""Two processes, as torchrun starts them, find the weights that one finds."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from regard.config import Config, to_toml
from regard.files import locked
from regard.training import checkpoint
from regard.training.loop import train

PROGRAM = """
import sys
from pathlib import Path
from regard.config import read_config
from regard.training.loop import train
train(read_config(Path(sys.argv[1])), sys.argv[2], device="cpu")
"""


def test_two_processes_give_the_weights_of_one(tiny: Callable[..., Config], tmp_path: Path) -> None:
    # A large epsilon: Adam then heeds the size of a gradient, and does not blow rounding errors up to full steps.
    shared = {"model.dropout": 0.0, "data.subword_dropout": 0.3, "training.steps": 10, "training.eps": 0.01}
    train(tiny(**shared, **{"training.accumulate": 4}), tmp_path / "one")

    (tmp_path / "run.toml").write_text(to_toml(tiny(**shared, **{"training.accumulate": 2})))
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, tmp_path / "program.py", tmp_path / "run.toml", tmp_path / "two"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr.count("step 9/10") == 1  # one process talks

    one, two = (checkpoint.load(checkpoint.folder(tmp_path / name, 10)) for name in ("one", "two"))
    for name, tensor in one.weights.items():
        torch.testing.assert_close(two.weights[name], tensor, rtol=0, atol=1e-6)
    assert one.position["target_tokens"] == two.position["target_tokens"]
    assert (one.position["epoch"], one.position["update"]) == (two.position["epoch"], two.position["update"])
    start = train(tiny(**{**shared, "training.steps": 1}), tmp_path / "start")
    first = checkpoint.load(checkpoint.folder(start.run, 1)).weights
    assert max((first[name] - tensor).abs().max() for name, tensor in one.weights.items()) > 1e-3
    assert (tmp_path / "two" / "model.safetensors").exists()


@pytest.mark.slow
def test_the_command_under_torchrun(tiny: Callable[..., Config], tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(to_toml(tiny(**{"training.steps": 4, "training.threads": 1})))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "regard"]
    done = subprocess.run(
        [*command, "train", tmp_path / "run.toml", "-o", tmp_path / "two"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "two" / "manifest.json").exists()
    on = [*command, "train", "--resume", tmp_path / "two", "--steps", "6"]
    done = subprocess.run(on, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert checkpoint.load(checkpoint.folder(tmp_path / "two", 6)).position["step"] == 6


@pytest.mark.slow
def test_a_corpus_of_one_batch_and_a_refusal_under_torchrun(tmp_path: Path) -> None:
    """With one batch an epoch a process may have none; what the first process refuses is no traceback of the others."""
    for language in ("zh", "en"):
        (tmp_path / f"t.{language}").write_text("".join(f"a{n} b c\n" for n in range(50)), "utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "regard"]
    small = "--set model.preset=tiny --set model.encoder_layers=1 --set model.decoder_layers=1 --threads 1 --steps 4"
    train = [*command, "train", "t.zh", "t.en", "-o", "run", *small.split()]
    done = subprocess.run(train, cwd=tmp_path, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == "run\n" and done.stderr.count("pairs to train on, 1 held out") == 1
    with locked(tmp_path / "run" / ".lock"):
        done = subprocess.run([*train, "--force"], cwd=tmp_path, capture_output=True, encoding="utf-8")
    said = done.stderr.partition("Traceback")[0]  # that of torchrun, which says that its processes failed
    assert done.returncode != 0 and "another training is writing to it" in said, done.stderr[-2000:]
    assert "gloo" not in done.stderr and (tmp_path / "run" / "model.safetensors").exists()
