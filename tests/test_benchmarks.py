"""The comparison on a GPU, by its CPU path: every contender runs, on a tiny shape, and nothing is written."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results"


@pytest.mark.slow
def test_the_comparison_on_a_gpu_runs_on_a_cpu(corpus: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tmp_path / "data" / "multi30k"
    folder.mkdir(parents=True)
    for split, lines in (("train", 3000), ("val", 50), ("test_2016_flickr", 20)):
        for side in ("en", "de"):
            text = (corpus("multi30k") / f"{split}.{side}").read_text("utf-8").split("\n")[:lines]
            (folder / f"{split}.{side}").write_text("\n".join(text) + "\n", "utf-8")
    before = sorted(RESULTS.iterdir())
    places = {"REGARD_DATA": str(folder.parent), "REGARD_CONTEST": str(tmp_path / "work")}
    done = subprocess.run(
        [sys.executable, "benchmarks/gpu.py", "--device", "cpu", "--quick"],
        cwd=ROOT, capture_output=True, text=True, env={**os.environ, **places},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    for title in ("tiny, random pairs", "tiny, Multi30k", "tiny, beam 1", "tiny, beam 4"):
        assert f'"{title}"' in done.stdout
    for contender in ("plain SDPA loop", "Hugging Face MarianMT, plain loop", "huggingface", "ctranslate2"):
        assert contender in done.stdout
    assert sorted(RESULTS.iterdir()) == before
