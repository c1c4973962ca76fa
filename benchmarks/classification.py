"""A classifier from scratch beside a bag of words: python benchmarks/classification.py [--seeds 1 2 3]

Both see the training part of sentiment-en alone; the figures are of its dev part, by `regard evaluate`. The bag of
words is scikit-learn's CountVectorizer with logistic regression. Run it when nothing else runs.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import evidence

RECIPE = evidence.ROOT / "recipes" / "sentiment-en.toml"


def rows(name: str) -> tuple[list[str], list[str]]:
    """The texts and labels of a part."""
    with open(evidence.data_folder() / "sentiment-en" / f"{name}.tsv", encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [row["text"] for row in found], [row["label"] for row in found]


def regard(*words: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "regard", *words, "--json"]
    found: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    return found


def bag_of_words() -> dict[str, Any]:
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    begun = time.perf_counter()
    model = make_pipeline(CountVectorizer(), LogisticRegression(max_iter=1000)).fit(*rows("train"))
    return {"accuracy": float(model.score(*rows("dev"))), "seconds": time.perf_counter() - begun}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    given = parser.parse_args()
    bag, found = bag_of_words(), []
    with tempfile.TemporaryDirectory() as name:
        for seed in given.seeds:
            run, begun = Path(name) / f"run-{seed}", time.perf_counter()
            regard("train", str(RECIPE), "--run", str(run), "--seed", str(seed))
            seconds = time.perf_counter() - begun
            scores = regard("evaluate", str(run), str(evidence.data_folder() / "sentiment-en" / "dev.tsv"))
            found.append({"seconds": seconds, **{key: scores[key] for key in scores if key not in ("model", "file")}})
            print(found[-1], file=sys.stderr)
    accuracies = [one["accuracy"] for one in found]
    listed = ", ".join(f"{accuracy:.1%}" for accuracy in accuracies)
    table = [
        ["regard, encoder from scratch", f"{statistics.mean(accuracies):.1%} ({listed})",
         f"{statistics.median(one['seconds'] for one in found):.0f}"],
        ["scikit-learn, bag of words", f"{bag['accuracy']:.1%}", f"{bag['seconds']:.0f}"],
    ]  # fmt: skip
    evidence.write(
        "sentiment-en",
        command=f"python benchmarks/classification.py --seeds {' '.join(map(str, given.seeds))}",
        seeds=given.seeds,
        figures={"runs": found, "bag_of_words": bag},
        table={"columns": ["", "accuracy on dev, mean (seeds)", "seconds"], "rows": table},
        packages=["scikit-learn"],
        note="Weights were chosen on the same dev part (1,066 sentences: a 95 % interval is about 5 points wide). The "
        "seconds are those of the whole process.",
    )
    for row in table:
        print(" · ".join(row))


if __name__ == "__main__":
    main()
