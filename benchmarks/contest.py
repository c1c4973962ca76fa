"""Common to the speed comparisons: child processes with their peak memory, alternating rounds, medians and ratios."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
WORK = Path(os.environ.get("REGARD_CONTEST") or ROOT / "runs" / "contest")  # not committed
PEERS = Path(__file__).resolve().parent / "peers"

# The paper's base and big, and the model for small corpora; the dropout is the preset's.
SHAPES: dict[str, dict[str, Any]] = {
    "base": {"width": 512, "layers": 6, "heads": 8, "feedforward": 2048, "dropout": 0.1},
    "big": {"width": 1024, "layers": 6, "heads": 16, "feedforward": 4096, "dropout": 0.3},
    "tiny": {"width": 128, "layers": 4, "heads": 4, "feedforward": 256, "dropout": 0.3},
}

# machine/memory.py asks this of the C library; for programs that do not ask: freed memory is kept.
KEPT = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
    "MALLOC_TOP_PAD_": str(64 << 20),
}


@dataclass(frozen=True)
class Outcome:
    """The output of a child process, and how much memory it held at most."""

    output: str
    peak_mib: float


def child(command: Sequence[str | Path], *, threads: int, environment: Mapping[str, str] | None = None) -> Outcome:
    """Run a program to its end; a failure ends the comparison with its last lines."""
    env = {**os.environ, "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    if threads:
        env |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    log = WORK / "child.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "w+b") as file:
        process = subprocess.Popen(
            [str(word) for word in command], stdout=file, stderr=subprocess.STDOUT, cwd=ROOT,
            env={**env, **(environment or {})},
        )  # fmt: skip
        # wait4 alone gives the memory of this one child. This process is small, so its fork does not blur the figure.
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        file.seek(0)
        output = file.read().decode("utf-8", "replace")
    if process.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed ({process.returncode}):\n{output[-3000:]}")
    unit = 1024 if sys.platform != "darwin" else 1
    return Outcome(output, usage.ru_maxrss * unit / 2**20)


def avx2_alone() -> dict[str, str]:
    """An environment in which every backend keeps to AVX2, as on a processor that has no more."""
    compiler = WORK / "cc-avx2"
    compiler.write_text('#!/bin/sh\nexec cc "$@" -march=x86-64-v3\n')  # the last -march counts
    compiler.chmod(0o755)
    return {
        "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "CT2_FORCE_CPU_ISA": "AVX2",
        "CC": str(compiler), "XDG_CACHE_HOME": str(WORK / "cache-avx2"),
    }  # fmt: skip


def cores() -> list[int]:
    """Those that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def seconds(work: Callable[[], Any], budget: float) -> float:
    """The best of three times ``budget`` seconds of calls, after two calls that warm up."""
    work()
    start = time.perf_counter()
    work()
    calls = max(3, int(budget / (time.perf_counter() - start)))
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        for _ in range(calls):
            work()
        best = min(best, (time.perf_counter() - start) / calls)
    return best


def peer(name: str) -> Path:
    """The Python of a peer's own environment, made from peers/NAME.txt when it is not there yet."""
    folder = WORK / name
    python = folder / "bin" / "python"
    stamp, wanted = folder / "made-from.txt", (PEERS / f"{name}.txt").read_text()
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    print(f"making {name}'s environment in {folder} (once)", file=sys.stderr)
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    made = subprocess.run(
        [python, "-m", "pip", "install", "-q", "-r", PEERS / f"{name}.txt"], capture_output=True, text=True
    )
    if made.returncode:
        sys.exit(f"pip could not make {name}'s environment:\n{made.stderr[-3000:]}")
    stamp.write_text(wanted)
    return python


def rounds(contenders: Mapping[str, Callable[[], dict[str, Any]]], runs: int, unit: str) -> dict[str, Any]:
    """Run all in turn, `runs` times, starting with another each time; every figure is kept."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}
    names = list(contenders)
    for number in range(runs):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            result = contenders[name]()
            found[name].append(result)
            line = f"round {number + 1}: {name}: {result['rate']:,.0f} {unit}, {result['peak_mib']:,.0f} MiB"
            print(line, file=sys.stderr, flush=True)
    return {"rounds": found, **summary(found)}


def summary(found: Mapping[str, list[dict[str, Any]]], first: str = "regard") -> dict[str, Any]:
    """Medians of each contender, and how many times faster the first is: the median of the rounds' ratios."""
    medians = {name: statistics.median(r["rate"] for r in results) for name, results in found.items()}
    memory = {name: round(statistics.median(r["peak_mib"] for r in results)) for name, results in found.items()}
    ratios = {}
    if first in found:
        for name, results in found.items():
            pairs = zip(found[first], results, strict=True)
            ratios[name] = round(statistics.median(ours["rate"] / theirs["rate"] for ours, theirs in pairs), 2)
    return {"rate": {name: round(rate, 1) for name, rate in medians.items()}, "peak_mib": memory, "ratio": ratios}


def table(figures: Mapping[str, Any], rate: str, *, memory: bool = True) -> dict[str, Any]:
    """As tables.py prints it: fastest first; ``memory`` False where the peaks cannot be compared."""
    rows = []
    for name in sorted(figures["rate"], key=figures["rate"].get, reverse=True):
        rates = [r["rate"] for r in figures["rounds"][name]]
        spread = f"{min(rates):,.0f} to {max(rates):,.0f}"
        ratio = figures["ratio"].get(name)
        times = "" if name == "regard" or ratio is None else f"{ratio:.2f} ×"
        rows.append([name, round(figures["rate"][name]), spread, times, figures["peak_mib"][name]])
    columns = ["", f"{rate}, median", f"over {len(rates)} rounds", "regard is", "peak memory, MiB"]
    count = len(columns) - (not memory)
    return {"columns": columns[:count], "rows": [row[:count] for row in rows]}
