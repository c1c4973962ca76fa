import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from regard.config import Config, to_toml
from regard.training.metrics import TIMING, read_rows

PROGRAM = """
import sys, torch
from regard.machine import memory
torch.set_num_threads(1)
said = memory.keep_memory() if sys.argv[1] == "keep" else ""
def work():
    parts = [torch.randn(700, 1000) for _ in range(8)] + [torch.randn(30, 50) for _ in range(100)]
    return torch.ones(12_000_000).sum() + sum(part.sum() for part in parts)
for _ in range(8):
    work()  # the heap finds its final layout
before = memory.page_faults()
for _ in range(20):
    work()
print(memory.page_faults() - before, memory.peak_memory(), said)
"""


def run(how: str) -> tuple[int, int, str]:
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
    faults, peak, *said = done.stdout.split(maxsplit=2)
    return int(faults), int(peak), " ".join(said)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_freed_memory_is_kept() -> None:
    faults_without, peak, _ = run("plain")
    faults, _, said = run("keep")
    if said:
        pytest.skip(said)
    assert faults_without > 100_000  # 20 × 70 MB in pages of 4 KiB
    # A small block that falls elsewhere may once more push the large one (3 % of these pages) to a fresh place.
    assert faults < faults_without / 10
    assert 50e6 < peak < 2e9


TRAINING = """
import sys
from pathlib import Path
from regard.config import read_config
from regard.training.loop import train
train(read_config(Path(sys.argv[1])), sys.argv[2])
"""


@pytest.mark.slow
@pytest.mark.parametrize("dropout", [0.0, 0.05])
def test_the_estimate_of_memory_holds(tiny: Callable[..., Config], tmp_path: Path, dropout: float) -> None:
    """In a process of its own, whose peak is nobody else's, with batches that outweigh the libraries."""
    changes = {"data.vocabulary": 420, "model.width": 256, "model.heads": 4, "model.feedforward": 1024}
    changes |= {"model.encoder_layers": 3, "model.decoder_layers": 3, "training.batch_tokens": 1000}
    changes |= {"data.subword_dropout": dropout, "training.steps": 20, "training.learning_rate": 0.001}
    (tmp_path / "run.toml").write_text(to_toml(tiny(**changes)))
    command = [sys.executable, "-c", TRAINING, str(tmp_path / "run.toml"), str(tmp_path / "run")]
    subprocess.run(command, check=True, capture_output=True)
    rows = read_rows(tmp_path / "run" / TIMING)
    used = max(row["peak_bytes"] for row in rows if row["kind"] == "train")
    assert rows[0]["peak_bytes"] == pytest.approx(used, rel=0.15)
    assert {row["kind"] for row in rows} >= {"preflight", "train", "validation", "save"}


def test_onednn_keeps_few_kernels_unless_it_was_told_otherwise() -> None:
    code = "import os; from regard.machine.memory import keep_memory; keep_memory(); "
    code += "print(os.environ['ONEDNN_PRIMITIVE_CACHE_CAPACITY'])"
    for given, expected in (({}, "128"), ({"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "7"}, "7")):
        environment = {key: value for key, value in os.environ.items() if not key.startswith("ONEDNN")} | given
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == expected
