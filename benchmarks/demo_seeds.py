"""The demo's second part with several seeds: python benchmarks/demo_seeds.py [--seeds 1 2 3]

Each is `regard demo` as anyone runs it (about 5 minutes with everything around the three of training); afterwards its
model translates Tatoeba's dev, and the hypotheses go to results/demo/. Run it when nothing else runs.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import evidence
from contest import WORK, child

REFERENCE = "tatoeba-zh-en/dev.en"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--minutes", type=float, default=3.0)
    given = parser.parse_args()
    runs: list[Path] = []
    hypotheses: list[tuple[Path, str]] = []
    seconds: list[float] = []
    source = evidence.data_folder() / "tatoeba-zh-en" / "dev.zh"
    for seed in given.seeds:
        run, output = WORK / f"demo-{seed}", WORK / f"demo-{seed}.en"
        regard = [sys.executable, "-m", "regard"]
        start = time.perf_counter()
        done = child([*regard, "demo", "--seed", str(seed), "--minutes", str(given.minutes), "--run", run], threads=0)
        seconds.append(round(time.perf_counter() - start, 1))
        print("\n".join(line for line in done.output.splitlines() if "BLEU" in line), file=sys.stderr)
        with open(output, "wb") as file:
            subprocess.run([*regard, "translate", run, source], stdout=file, check=True)
        runs.append(run)
        hypotheses.append((output, REFERENCE))
    words = " ".join(map(str, given.seeds))
    evidence.write(
        "demo",
        command=f"python benchmarks/demo_seeds.py --seeds {words} --minutes {given.minutes:g}",
        runs=runs,
        hypotheses=hypotheses,
        figures={"seconds_of_the_whole_demo": seconds},
    )


if __name__ == "__main__":
    main()
