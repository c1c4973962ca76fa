"""A part of ``python benchmarks/faults.py``: damaged and hostile files are refused in one line, or do no harm."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
RESULTS = ROOT / "results"


@pytest.mark.parametrize(
    "suite", ["models", "configs", "tokenizers", pytest.param("checkpoints", marks=pytest.mark.slow)]
)
def test_no_hostile_file_hangs_prints_a_traceback_or_loses_a_line(suite: str) -> None:
    before = sorted(RESULTS.iterdir())
    command = [sys.executable, "benchmarks/faults.py", "--only", suite, "--count", "40"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    name, cases, accepted, refused, failures, *_ = done.stdout.splitlines()[-1].split()
    assert (name, cases, failures) == (suite, "40", "0")
    # Cases that nothing notices, or that are all noticed, are no test; of two checkpoints one is nearly always whole.
    assert int(accepted) > 0 and int(refused) > 0 and (suite == "checkpoints" or int(accepted) < int(refused))
    assert sorted(RESULTS.iterdir()) == before
