"""A part of ``python benchmarks/faults.py``: damaged and hostile inputs are refused in one line, or do no harm."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
RESULTS = ROOT / "results"
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("checkpoints", "requests")]


def faults(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "benchmarks/faults.py", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)


@pytest.mark.parametrize(
    "suite, count",
    [("models", 40), ("configs", 40), ("tokenizers", 40), ("corpora", 300),
     *(pytest.param(name, 40, marks=pytest.mark.slow) for name in ("checkpoints", "requests"))],
)  # fmt: skip
def test_no_hostile_input_hangs_prints_a_traceback_or_loses_a_line(suite: str, count: int) -> None:
    before = sorted(RESULTS.iterdir())
    done = faults("--only", suite, "--count", count)
    assert done.returncode == 0, done.stdout + done.stderr
    name, cases, accepted, refused, failures, slowest, memory, seed = done.stdout.splitlines()[-1].split()
    assert (name, cases, failures, seed) == (suite, str(count), "0", "1")
    # Cases that nothing notices, or that are all noticed, are no test; of two checkpoints one is nearly always whole.
    assert int(accepted) > 0 and int(refused) > 0 and int(accepted) + int(refused) == count
    assert suite in ("checkpoints", "corpora") or int(accepted) <= int(refused)
    assert float(slowest) > 0 or suite == "corpora"
    assert (memory == "–") == (suite in ("corpora", "requests"))
    assert sorted(RESULTS.iterdir()) == before


@pytest.mark.parametrize("suite", ["models", "configs", "tokenizers", "corpora", *SLOW])
def test_a_case_depends_on_the_seed_and_its_number_alone(suite: str, tmp_path: Path) -> None:
    """Made again alone, a case has the files that it had among others; of a run, which has a clock, the label."""
    code = """
import hashlib, importlib, sys
from pathlib import Path
module, folder = importlib.import_module(f"hostile.{sys.argv[1]}"), Path(sys.argv[2])
folder.mkdir()
for case in module.cases(4, map(int, sys.argv[3:]), folder):
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink()]
    files = [path for path in files if "originals" not in path.parts and path.stat().st_size < 1 << 24]
    files = [] if sys.argv[1] == "checkpoints" else files
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    print(case.number, case.label.replace(str(folder), "").encode(), *hashes, file=sys.stderr)
"""

    def made(name: str, *numbers: int) -> list[str]:
        command = [sys.executable, "-c", code, suite, str(tmp_path / name), *map(str, numbers)]
        done = subprocess.run(command, cwd=ROOT / "benchmarks", capture_output=True, text=True, check=True)
        return done.stderr.splitlines()

    among = made("among", *range(12))
    alone = made("one", 11), made("another", 5)
    assert among[11:] + among[5:6] == [*alone[0], *alone[1]]


@pytest.mark.parametrize("suite", ["models", "corpora", pytest.param("requests", marks=pytest.mark.slow)])
def test_one_case_is_shown_and_its_files_are_kept(suite: str, tmp_path: Path) -> None:
    done = faults("--only", suite, "--case", 9, "--keep", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    _, first, verdict, *_, row = done.stdout.splitlines()
    assert first.startswith(f"{suite} 9: ") and verdict.startswith(("accepted, ", "refused, "))
    assert row.split()[:2] == [suite, "1"]
    assert [path.name for path in tmp_path.iterdir()] == [f"{suite}-9"] and any((tmp_path / f"{suite}-9").iterdir())


@pytest.mark.parametrize("arguments", [("--case", -1), ("--count", -1), ("--case", 1, "--count", 2), ("--only", "x")])
def test_what_cannot_be_tried_is_refused_in_one_line(arguments: tuple[object, ...]) -> None:
    done = faults(*arguments)
    assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith("faults.py: error: ")
    assert "Traceback" not in done.stderr
