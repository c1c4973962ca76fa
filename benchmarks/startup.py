"""How long the shell waits: python benchmarks/startup.py [--rounds 7]

`regard --help`, and one sentence through `regard translate zh-en`, beside `import torch` alone, in turn; whole
processes, wall-clock seconds, their median. Run it when nothing else runs.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

import evidence

TORCH = "import torch"
HELP = "regard --help"
SENTENCE = "echo 我爱机器学习 | regard translate zh-en"
COMMANDS = {
    TORCH: [sys.executable, "-c", "import torch"],
    HELP: [sys.executable, "-m", "regard", "--help"],
    SENTENCE: [sys.executable, "-m", "regard", "translate", "zh-en"],
}


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, input="我爱机器学习\n".encode(), capture_output=True, check=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    found: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for number in range(given.rounds + 1):
        for name, command in COMMANDS.items():
            took = seconds(command)
            if number:  # the first round fetches the files from the disk
                found[name].append(round(took, 3))
    medians = {name: statistics.median(times) for name, times in found.items()}
    limits = {TORCH: "", HELP: 0.3, SENTENCE: round(1.5 * medians[TORCH] + 0.5, 2)}
    rows = [
        [name, f"{medians[name]:.2f}", f"{min(times):.2f} to {max(times):.2f}", str(limits[name])]
        for name, times in found.items()
    ]
    evidence.write(
        "startup",
        command=f"python benchmarks/startup.py --rounds {given.rounds}",
        figures={"rounds": found, "median": medians},
        table={"columns": ["", "seconds, median", f"over {given.rounds} rounds", "goal, at most"], "rows": rows},
        note="The goal for a sentence is 1.5 times the import of PyTorch in the same run, and half a second.",
    )
    for row in rows:
        print(" · ".join(row))


if __name__ == "__main__":
    main()
