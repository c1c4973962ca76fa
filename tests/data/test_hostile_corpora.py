"""Some of the corpora that ``benchmarks/hostile/corpora.py`` makes by the thousand, whole and damaged."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "hostile" / "corpora.py"


def test_no_corpus_is_lost_or_read_wrongly_without_a_word() -> None:
    done = subprocess.run([sys.executable, SCRIPT, "--count", "300", "--seed", "9"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
