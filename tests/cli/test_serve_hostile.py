"""A real server under hostile requests of every kind, by the benchmark that fires any number of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "hostile" / "requests.py"


@pytest.mark.slow
def test_no_hostile_request_gets_more_than_a_refusal_or_harms_the_next_one() -> None:
    done = subprocess.run([sys.executable, BENCHMARK, "--seed", "7", "--count", "64"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "64 hostile requests (seed 7): 0 failures" in done.stdout
