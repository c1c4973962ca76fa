"""A recipe and variations of it, each on one core, compared on validation data by paired bootstrap.

    python benchmarks/variations.py benchmarks/variations/multi30k-regularisers.toml [--jobs 2]

The file names the recipe, the validation pair, what all trainings set (a shorter one than the recipe's), and what each
variation sets otherwise; the first variation is what the others are compared with. Beam 5; no test set is read. Writes
results/NAME/, NAME being the file's. Run it when nothing else runs; a variation that is finished is not trained again,
one that was cut off is resumed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from typing import Any

import evidence
from contest import WORK, cores

LAST = "its last checkpoint, not averaged"


def regard(*words: object, core: int | None = None) -> None:
    """Run the installed program, on one core alone if one is given; its failure ends the comparison."""
    pin = None
    if core is not None and hasattr(os, "sched_setaffinity"):
        pin = lambda: os.sched_setaffinity(0, {core})  # noqa: E731
    command = [sys.executable, "-m", "regard", *map(str, words)]
    environment = {**os.environ, "REGARD_DATA": str(evidence.data_folder())}
    done = subprocess.run(command, cwd=evidence.ROOT, env=environment, capture_output=True, text=True, preexec_fn=pin)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed ({done.returncode}):\n{done.stderr[-2000:]}")


def train(recipe: str, run: Path, sets: list[str], core: int) -> None:
    """One variation, alone on its core."""
    if (run / "manifest.json").exists():
        return
    if (run / "checkpoints").exists():
        regard("train", "--resume", run, core=core)
    else:
        words = [word for entry in [*sets, "training.threads=1"] for word in ("--set", entry)]
        regard("train", recipe, "--run", run, "--force", *words, core=core)
    print(f"{run.name}: trained", file=sys.stderr, flush=True)


def last_of(path: Path) -> dict[str, Any]:
    """The last line about training in a run's log."""
    logged = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    found: dict[str, Any] = [line for line in logged if line["kind"] == "train"][-1]
    return found


def row(name: str, run: Path, outputs: list[str], first: list[str], references: list[str], target: str) -> list[Any]:
    """A line of the table: updates, epochs, minutes, BLEU, and the difference from the first with its p."""
    from regard.evaluation import corpus_scores, paired_bootstrap

    last, clock = (last_of(run / name) for name in ("metrics.jsonl", "timing.jsonl"))
    found = corpus_scores(outputs, references, target)
    line: list[Any] = [name, last["step"], last["epoch"] + 1, f"{clock['seconds'] / 60:.0f}", f"{found.bleu:.2f}"]
    if outputs is first:
        return [*line, "", ""]
    against = paired_bootstrap(first, outputs, references, target)
    return [*line, f"{against.b - against.a:+.2f}", f"{against.p:.3f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    allowed = cores()
    parser.add_argument("--jobs", type=int, default=len(allowed), help="trainings at a time, a core each")
    given = parser.parse_args()
    given.jobs = min(given.jobs, len(allowed))
    plan = tomllib.loads(given.file.read_text())
    name, target = given.file.stem, plan["target"]
    folder = WORK / "variations" / name
    folder.mkdir(parents=True, exist_ok=True)
    free: Queue[int] = Queue()
    for core in allowed[: given.jobs]:
        free.put(core)

    def one(title: str) -> Path:
        run, core = folder / "".join(letter if letter.isalnum() else "-" for letter in title), free.get()
        try:
            train(plan["recipe"], run, [*plan["all"], *plan["variations"][title]], core)
        finally:
            free.put(core)
        return run

    with ThreadPoolExecutor(given.jobs) as pool:
        runs = dict(zip(plan["variations"], pool.map(one, plan["variations"]), strict=True))
    first = next(iter(runs))
    shutil.rmtree(folder / "last", ignore_errors=True)
    regard("average", runs[first], folder / "last", "--last", 1)

    import regard as package

    data = evidence.data_folder()
    sources = evidence.lines_of(data / f"{plan['valid']}.{plan['source']}")
    references = evidence.lines_of(data / f"{plan['valid']}.{target}")

    def outputs(model: Path) -> list[str]:
        return [one.text for one in package.load(str(model)).translate(sources)]

    changed = itertools.chain.from_iterable(plan["variations"].values())
    seeds = (int(entry.removeprefix("seed=")) for entry in changed if entry.startswith("seed="))
    beside = outputs(runs[first])
    rows = [row(first, runs[first], beside, beside, references, target)]
    rows.append(row(f"{first}: {LAST}", runs[first], outputs(folder / "last"), beside, references, target))
    for title, run in list(runs.items())[1:]:
        rows.append(row(title, run, outputs(run), beside, references, target))
    evidence.write(
        name,
        command=f"python benchmarks/variations.py benchmarks/variations/{given.file.name}",
        seeds=sorted({1, *seeds}),
        table={
            "columns": ["", "updates", "epochs", "minutes", f"BLEU on {plan['valid']}", "difference", "p"],
            "rows": rows,
        },
        note=f"One core each; {', '.join(plan['all'])}; p by paired bootstrap, 1,000 samples.",
    )


if __name__ == "__main__":
    main()
