"""Damaged and hostile inputs by the thousand: python benchmarks/faults.py [--only models] [--count N] [--seed S]

Each case of a suite (benchmarks/hostile/) is given to the command line in a process of its own, forked from one that
has imported PyTorch and regard, with a limit of time and memory. It may be accepted (exit 0) or refused: exit 2, and
one line of standard error that begins "regard: error:" beside the notices that begin "regard:". Anything else is a
failure: a traceback, a signal, another exit code, a hang, too much memory, several lines, control characters, output
that has lost a line. With the suites' own counts the table is written to results/faults-SUITE/; any failure exits
with 1.

``--case N`` runs a single case and shows what it says; ``--keep FOLDER`` keeps what failed.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import evidence
import hostile

SUITES = {
    "models": "hostile.models",
    "configs": "hostile.configs",
    "tokenizers": "hostile.tokenizers",
    "checkpoints": "hostile.checkpoints",
    "corpora": "hostile.corpora",
    "requests": "hostile.requests",
}
SECONDS = 10.0  # of a case; with more it counts as a hang
MEMORY = 1 << 30  # bytes beyond those that PyTorch and regard take
MODULES = (
    "torch",
    "safetensors.torch",
    "tomli_w",
    "rich.console",
    "regard.pipelines",
    "regard.training.loop",
    "regard.training.session",
    *(f"regard.cli.{name}" for name in ("main", "translate", "params", "score", "evaluate", "train", "average")),
)


@dataclass
class Ended:
    """What became of a process: its exit code (negative: a signal; None: it was stopped), output, time and memory."""

    code: int | None
    out: str
    err: str
    seconds: float
    memory: int


@dataclass
class Tally:
    """What became of a suite."""

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    worst: float = 0.0
    memory: int = 0


def run(arguments: Sequence[str], folder: Path, seconds: float = SECONDS) -> Ended:
    """Run ``regard ARGUMENTS`` in a forked process that has a session, memory and standard streams of its own."""
    names = [folder / name for name in ("stdin", "stdout", "stderr")]
    names[0].write_text(hostile.TEXT, "utf-8")
    sys.stdout.flush()
    sys.stderr.flush()
    started = time.monotonic()
    pid = os.fork()
    if not pid:
        _become(arguments, names)
    ended: tuple[int, int, resource.struct_rusage] = (0, 0, resource.getrusage(resource.RUSAGE_SELF))
    while not ended[0] and time.monotonic() - started < seconds:
        time.sleep(0.005)
        ended = os.wait4(pid, os.WNOHANG)
    taken = time.monotonic() - started
    code = os.waitstatus_to_exitcode(ended[1]) if ended[0] else None
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)  # the processes that it may have left
    if not ended[0]:
        ended = os.wait4(pid, 0)
    out, err = (name.read_bytes().decode("utf-8", "surrogateescape") for name in names[1:])
    return Ended(code, out, err, taken, ended[2].ru_maxrss << 10)


def _become(arguments: Sequence[str], names: Sequence[Path]) -> None:
    """The child: never comes back."""
    code = 1
    try:
        os.setsid()
        for number, (name, flags) in enumerate(zip(names, (os.O_RDONLY, os.O_WRONLY, os.O_WRONLY), strict=True)):
            os.dup2(os.open(name, flags | os.O_CREAT | (os.O_TRUNC if number else 0), 0o644), number)
        sys.stdin, sys.stdout, sys.stderr = (open(n, mode, encoding="utf-8") for n, mode in enumerate("rww"))  # noqa: SIM115
        size = int(Path("/proc/self/statm").read_text("ascii").split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + 2 * MEMORY, size + 2 * MEMORY))
        from regard.cli.main import main

        code = main(list(arguments))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def judge(ended: Ended, arguments: Sequence[str], baseline: int) -> str:
    """ "accepted", "refused", or what is wrong."""
    lines = ended.err.splitlines()
    errors = [line for line in lines if line.startswith("regard: error: ")]
    if ended.code is None:
        return f"hangs: no end after {ended.seconds:.0f} s"
    if ended.code < 0:
        return f"ended by {signal.Signals(-ended.code).name}"
    if "Traceback" in ended.err or "panicked" in ended.err:
        return "a traceback"
    if any((ord(sign) < 32 and sign != "\n") or 127 <= ord(sign) < 160 for sign in ended.err):
        return "control characters on standard error"
    talks = arguments[0] == "train"  # it says what it does before anything can fail
    if ended.code and (len(errors) > 1 or not (talks or all(line.startswith("regard: ") for line in lines))):
        return "lines on standard error that are neither a notice nor the error"
    if "out of memory" in ended.err or ended.memory > baseline + MEMORY:
        return f"takes {(ended.memory - baseline) >> 20:,} MiB, or all there is"
    if ended.code == 2:
        return "refused" if errors and lines[-1] == errors[0] else "exit code 2 without one line that says why"
    if ended.code != 0 or errors:
        return f"exit code {ended.code} and {len(errors)} errors"
    if arguments[0] == "translate" and ended.out.count("\n") != hostile.TEXT.count("\n"):
        return "a line of the output is lost"
    return "accepted"


def try_suite(
    name: str, count: int, seed: int, *, only: int | None = None, keep: Path | None = None,
    say: Callable[[str], None] = print,
) -> Tally:  # fmt: skip
    """Run a suite's cases and count what becomes of them."""
    module, tally = importlib.import_module(SUITES[name]), Tally()
    if not hasattr(module, "mutants"):  # a suite that is no command line
        if hasattr(module, "attempt"):
            module.attempt(seed, count, tally)
        else:
            for label, fault in module.run(seed, count):
                tally.counts["failures" if fault else "refused"] += 1
                tally.failures += [f"{name} {label}: {fault}"] if fault else []
        say("\n".join(tally.failures)) if tally.failures else None
        return tally
    baseline = 0
    with tempfile.TemporaryDirectory(prefix="faults-") as place:
        folder = Path(place)
        cases: Iterator[tuple[str, list[str]]] = module.mutants(seed, count, folder)
        for number, (label, arguments) in enumerate(cases):
            # Linux counts the pages that a fork shares with its parent as the child's.
            baseline = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
            if only not in (None, number):
                continue
            ended = run(arguments, folder)
            verdict = judge(ended, arguments, baseline)
            if verdict in ("accepted", "refused") and hasattr(module, "check"):
                verdict = module.check(verdict) or verdict
            kind = verdict if verdict in ("accepted", "refused") else "failures"
            tally.counts[kind] += 1
            tally.worst = max(tally.worst, ended.seconds)
            tally.memory = max(tally.memory, ended.memory - baseline)
            if only is not None:
                say(f"{label}\nregard {' '.join(arguments)}\n{verdict}, {ended.seconds:.1f} s\n{ended.err}")
            elif kind == "failures":
                tally.failures.append(f"{name} {label}: {verdict}")
                say(f"{tally.failures[-1]}\n  {ended.err[-300:]!r}")
            if keep is not None and (kind == "failures" or only is not None):
                shutil.copytree(folder, keep / f"{name}-{number}", symlinks=True, dirs_exist_ok=True, ignore=_special)
    return tally


def _special(folder: str, names: list[str]) -> list[str]:
    """What cannot be copied."""
    paths = [Path(folder) / name for name in names]
    return [
        path.name for path in paths if path.exists() and not path.is_symlink() and not (path.is_file() or path.is_dir())
    ]


def prepare() -> None:
    """Import what the cases need, once, and start no thread: OpenMP would not survive a fork."""
    for module in MODULES:
        importlib.import_module(module)
    import torch

    torch.set_num_threads(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=SUITES, help="a suite; by default all of them")
    parser.add_argument("--count", type=int, help="how many cases of each; nothing is written to results/ then")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--case", type=int, help="one case alone, with what it says")
    parser.add_argument("--keep", type=Path, help="where the files of failures are kept")
    given = parser.parse_args()
    os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
    prepare()
    columns = ["suite", "cases", "accepted", "refused", "failures", "slowest, s", "memory, MiB", "seed"]
    print("  ".join(columns))
    failed = False
    for name in given.only or [name for name in SUITES if importlib.util.find_spec(SUITES[name])]:
        wanted = importlib.import_module(SUITES[name]).COUNT
        count = wanted if given.count is None else given.count
        tally = try_suite(name, count, given.seed, only=given.case, keep=given.keep)
        counts = [tally.counts[kind] for kind in ("accepted", "refused", "failures")]
        row = [name, sum(counts), *counts, round(tally.worst, 1), max(0, tally.memory >> 20), given.seed]
        print("  ".join(map(str, row)), flush=True)
        failed |= bool(tally.counts["failures"])
        if count == wanted and given.case is None:
            command = f"python benchmarks/faults.py --only {name} --seed {given.seed}"
            figures = {"cases": sum(counts), "failures": counts[2], "seconds_each_at_most": round(tally.worst, 1)}
            table = {"columns": columns, "rows": [row]}
            evidence.write(f"faults-{name}", command=command, seeds=[given.seed], figures=figures, table=table)
    sys.exit(int(failed))


if __name__ == "__main__":
    main()
