"""Damaged and hostile inputs by the thousand: python benchmarks/faults.py [--only models] [--count N] [--seed S]

The cases of a suite (benchmarks/hostile/) are tried one after another. A case may be accepted or refused, each in the
way that its suite says; anything else is a failure. Most suites give files to the command line in a process of its own,
forked from one that has imported PyTorch and regard, with a limit of time and memory: accepted is exit 0, refused is
exit 2 and one line of standard error that begins "regard: error:" beside the notices that begin "regard:". A failure is
a traceback, a signal, another exit code, a hang, too much memory, several lines, control characters, output that has
lost a line. With the suites' own counts the table is written to results/faults-SUITE/; any failure exits with 1.

``--case N`` tries a single case and shows what it says; ``--keep FOLDER`` keeps the files of what failed.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import evidence
from hostile import Case, Outcome, command

SUITES = {
    "models": "hostile.models",
    "configs": "hostile.configs",
    "tokenizers": "hostile.tokenizers",
    "checkpoints": "hostile.checkpoints",
    "corpora": "hostile.corpora",
    "requests": "hostile.requests",
}
COLUMNS = ["suite", "cases", "accepted", "refused", "failures", "slowest, s", "memory, MiB", "seed"]


@dataclass
class Tally:
    """The outcomes of a suite. ``memory``: bytes at most; None where the suite measures none."""

    counts: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    memory: int | None = None

    def add(self, outcome: Outcome) -> None:
        self.counts["failures" if outcome.failed else outcome.verdict] += 1
        self.slowest = max(self.slowest, outcome.seconds)
        if outcome.memory is not None:
            self.memory = max(self.memory or 0, outcome.memory)


def try_suite(suite: str, numbers: Iterable[int], seed: int, *, show: bool, keep: Path | None) -> Tally:
    """Try a suite's cases of these numbers and count what becomes of them. ``show``: what each says."""
    tally = Tally()
    with tempfile.TemporaryDirectory(prefix="faults-") as place:
        folder = Path(place)
        with closing(importlib.import_module(SUITES[suite]).cases(seed, numbers, folder)) as cases:
            for case in cases:
                outcome = case.attempt()
                tally.add(outcome)
                _tell(f"{suite} {case.number}", case, outcome, show)
                if keep is not None and (outcome.failed or show):
                    to = keep / f"{suite}-{case.number}"
                    shutil.copytree(folder, to, symlinks=True, dirs_exist_ok=True, ignore=_special)
    return tally


def _tell(name: str, case: Case, outcome: Outcome, show: bool) -> None:
    if show:
        print(f"{name}: {case.label}\n{outcome.verdict}, {outcome.seconds:.1f} s\n{outcome.said}")
    elif outcome.failed:
        print(f"{name}: {case.label}: {outcome.verdict}\n  {outcome.said[-300:]!r}")


def _special(folder: str, names: list[str]) -> list[str]:
    """The files of a folder that cannot be copied."""
    paths = [Path(folder) / name for name in names]
    return [
        path.name for path in paths if path.exists() and not path.is_symlink() and not (path.is_file() or path.is_dir())
    ]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=SUITES, help="a suite; by default all of them")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="where the files of failures are kept")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--count", type=int, help="how many cases of each; nothing is written to results/ then")
    which.add_argument(
        "--case", type=int, help="the number of one case, which is shown; nothing is written to results/"
    )
    given = parser.parse_args()
    for name in ("count", "case"):
        if (value := getattr(given, name)) is not None and value < 0:
            parser.error(f"--{name} {value}: expected 0 or more")
    return given


def main() -> None:
    given = _arguments()
    os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
    command.prepare()
    print("  ".join(COLUMNS))
    failed = False
    for suite in given.only or SUITES:
        own = importlib.import_module(SUITES[suite]).COUNT
        count = own if given.count is None else given.count
        numbers = range(count) if given.case is None else [given.case]
        tally = try_suite(suite, numbers, given.seed, show=given.case is not None, keep=given.keep)
        counts = [tally.counts[kind] for kind in ("accepted", "refused", "failures")]
        memory = "–" if tally.memory is None else tally.memory >> 20
        row = [suite, sum(counts), *counts, round(tally.slowest, 1), memory, given.seed]
        print("  ".join(map(str, row)), flush=True)
        failed |= bool(tally.counts["failures"])
        if count == own and given.case is None:
            said = f"python benchmarks/faults.py --only {suite} --seed {given.seed}"
            figures = {"cases": sum(counts), "failures": counts[2], "seconds_each_at_most": round(tally.slowest, 1)}
            table = {"columns": COLUMNS, "rows": [row]}
            evidence.write(f"faults-{suite}", command=said, seeds=[given.seed], figures=figures, table=table)
    sys.exit(int(failed))


if __name__ == "__main__":
    main()
