"""What each regulariser gives on Multi30k en-de's validation set: python benchmarks/regularisers.py [--minutes 25]

The recipe (recipes/multi30k-en-de.toml) and variations of it, each for as many minutes on one core, --jobs at a time;
then beam 5 on val and paired bootstrap against the recipe. No test set is read. results/multi30k-regularisers/.
Run it when nothing else runs.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue

import evidence
import multi30k
from contest import WORK

RECIPE = "the recipe"
VARIATIONS: dict[str, list[str]] = {
    RECIPE: [],
    "R-Drop from the start (twice the work an update)": ["training.rdrop=5.0"],
    "no subword dropout": ["data.subword_dropout=0.0"],
    "no dropout on embeddings": ["model.embedding_dropout=0.0"],
    "dropout 0.1": ["model.dropout=0.1"],
    "6+6 layers": ["model.encoder_layers=6", "model.decoder_layers=6"],
    "10,000 subwords": ["data.vocabulary=10000"],
    "post-norm": ["model.order=post"],
}
LAST = "the recipe's last checkpoint, not averaged"


def train(name: str, minutes: float, core: int) -> Path:
    """One variation, alone on its core."""
    run = WORK / "regularisers" / "".join(letter if letter.isalnum() else "-" for letter in name)
    if (run / "manifest.json").exists():
        return run
    sets = [*VARIATIONS[name], f"training.minutes={minutes}", "training.threads=1", "training.steps=100000"]
    command = [sys.executable, "-m", "regard", "train", "recipes/multi30k-en-de.toml", "--run", run, "--force"]
    command += itertools.chain.from_iterable(("--set", entry) for entry in sets)
    pin = (lambda: os.sched_setaffinity(0, {core})) if hasattr(os, "sched_setaffinity") else None
    environment = {**os.environ, "REGARD_DATA": str(evidence.data_folder())}
    done = subprocess.run(
        [str(word) for word in command], cwd=evidence.ROOT, env=environment, capture_output=True, text=True,
        preexec_fn=pin,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"{name} failed ({done.returncode}):\n{done.stderr[-2000:]}")
    print(f"{name}: done", file=sys.stderr, flush=True)
    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=25.0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    (WORK / "regularisers").mkdir(parents=True, exist_ok=True)
    cores: Queue[int] = Queue()
    for core in range(given.jobs):
        cores.put(core)

    def one(name: str) -> Path:
        core = cores.get()
        try:
            return train(name, given.minutes, core)
        finally:
            cores.put(core)

    with ThreadPoolExecutor(given.jobs) as pool:
        runs = dict(zip(VARIATIONS, pool.map(one, VARIATIONS), strict=True))
    runs[LAST] = WORK / "regularisers" / "last"
    shutil.rmtree(runs[LAST], ignore_errors=True)
    words = [sys.executable, "-m", "regard", "average", runs[RECIPE], runs[LAST], "--last", "1"]
    subprocess.run([str(word) for word in words], check=True, cwd=evidence.ROOT)
    report(runs, given.minutes)


def report(runs: dict[str, Path], minutes: float) -> None:
    """Beam 5 on val, beside the recipe."""
    import json

    import regard
    from regard.evaluation import corpus_scores, paired_bootstrap

    sources, references = multi30k.raw("val")
    outputs = {name: [one.text for one in regard.load(str(run)).translate(sources)] for name, run in runs.items()}
    rows = []
    for name, run in runs.items():
        found = corpus_scores(outputs[name], references, multi30k.TARGET)
        against = paired_bootstrap(outputs[RECIPE], outputs[name], references, multi30k.TARGET)
        metrics = (runs[RECIPE] if name == LAST else run) / "metrics.jsonl"
        updates = max(json.loads(line).get("step", 0) for line in metrics.read_text().splitlines())
        change = [] if name == RECIPE else [f"{against.b - against.a:+.2f}", f"{against.p:.3f}"]
        rows.append([name, updates, f"{found.bleu:.2f}", *(change or ["", ""])])
    evidence.write(
        "multi30k-regularisers",
        command=f"python benchmarks/regularisers.py --minutes {minutes:g}",
        seeds=[1],
        table={"columns": ["", "updates", "BLEU on val", "difference", "p"], "rows": rows},
        note=f"{minutes:g} minutes on one core each, one seed; p by paired bootstrap over 1,000 samples",
    )


if __name__ == "__main__":
    main()
