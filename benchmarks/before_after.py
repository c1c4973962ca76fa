"""The speed of this tree beside that of an earlier commit, in one run on one machine.

    git worktree add ../before COMMIT
    python benchmarks/before_after.py ../before      # 3 rounds, results/before-after/, about 15 minutes on 2 cores

Both trees run in turn under the same Python, each with its own native kernels. Training is that of train_speed.py
(tiny and base, fp32 and bf16), decoding that of decode_speed.py (a tiny model trained once by this tree; greedy and
beam 5, fp32 and int8). A ratio is this tree's rate over the other's: the median of the rounds. Run it when nothing
else runs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import evidence
import multi30k
from contest import ROOT, SHAPES, WORK, child, rounds, summary
from decode_speed import trained
from train_speed import COMMON, regard

#: Updates that are timed, and the updates of the warm-up and of a window of the log, by preset.
UPDATES = {"tiny": (40, 10), "base": (6, 3)}


def train(tree: Path, preset: str, precision: str) -> dict[str, Any]:
    """Target tokens a second of a tree's `regard train`."""
    updates, warmup = UPDATES[preset]
    shape = SHAPES[preset] | COMMON | {"batch_tokens": 4096, "updates": updates, "warmup": warmup, "threads": 0}
    os.environ["PYTHONPATH"] = str(tree / "src")
    return regard(shape | {"precision": precision})


def decode(tree: Path, model: Path, beam: int, precision: str, sources: list[list[int]]) -> dict[str, Any]:
    """Target tokens a second of a tree's engine, by its own script."""
    job = {
        "sources": sources, "beam": beam, "threads": 0, "max_extra": 50, "device": "cpu", "precision": "fp32",
        "batch_tokens": 4096, "avx2": False, "again": False,
    }  # fmt: skip
    path = WORK / "job.json"
    path.write_text(json.dumps(job))
    os.environ["PYTHONPATH"] = str(tree / "src")
    backend = "regard" if precision == "fp32" else f"regard:{precision}"
    outcome = child([sys.executable, tree / "benchmarks" / "peers" / "decode.py", backend, model, path], threads=0)
    measured = json.loads(outcome.output.strip().splitlines()[-1])
    ids = measured.pop("ids")
    rate = measured["target_tokens"] / measured["seconds"]
    return {"rate": rate, "peak_mib": outcome.peak_mib, "digest": hash(str(ids)), **measured}


#: Options of this tree that earlier commits refuse; the model that is decoded has their defaults.
LATER = ("key_value_heads", "head_width", "scale", "query_key_norm", "window")


def for_both(model: Path) -> Path:
    """A copy of the model that an earlier commit reads too: without later options, hence without a manifest."""
    folder = WORK / "before-after-model"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in ("model.safetensors", "text.json", "tokenizer.json"):
        shutil.copy(model / name, folder)
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    config["options"] = {key: value for key, value in config["options"].items() if key not in LATER}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="a checkout of the earlier commit")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=2.0, help="of the training of the model that is decoded")
    parser.add_argument("--only", default="", help="the comparisons whose name has this in it")
    given = parser.parse_args()
    trees = {"now": ROOT, "before": given.before.resolve()}
    data = WORK / "multi30k"
    multi30k.prepare(data)
    os.environ["PYTHONPATH"] = str(ROOT / "src")
    model = for_both(trained(given.minutes))
    from regard.text.tokenizer import Tokenizer

    sources = Tokenizer.read(model / "tokenizer.json", ("nfc",)).encode_batch(multi30k.raw("test_2016_flickr")[0])
    every: dict[str, Callable[[Path], dict[str, Any]]] = {
        f"train {preset} {precision}": partial(train, preset=preset, precision=precision)
        for preset in UPDATES
        for precision in ("fp32", "bf16")
    }
    every |= {
        f"decode tiny beam {beam} {precision}": partial(
            decode, model=model, beam=beam, precision=precision, sources=sources
        )
        for beam in (1, 5)
        for precision in ("fp32", "int8")
    }
    kept = WORK / "before-after.json"  # comparisons that were measured one by one
    found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8")) if given.only and kept.exists() else {}
    for name, measure in every.items():
        if given.only not in name:
            continue
        print(name, file=sys.stderr, flush=True)
        contenders = {which: partial(measure, tree) for which, tree in trees.items()}
        figures = rounds(contenders, given.rounds, "target tokens/s")
        found[name] = {**figures, "ratio": summary(figures["rounds"], "now")["ratio"]["before"]}
        kept.write_text(json.dumps(found), encoding="utf-8")
    rows = [
        [name, str(len(one["rounds"]["now"])), f"{one['rate']['before']:,.0f}", f"{one['rate']['now']:,.0f}",
         f"{one['ratio']:.2f}"]
        for name, one in found.items()
    ]  # fmt: skip
    columns = ["comparison", "rounds", "before, target tokens/s", "now", "ratio"]
    for row in (columns, *rows):
        print(" · ".join(row))
    if set(found) == set(every):
        commit = subprocess.run(
            ["git", "-C", str(given.before), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        evidence.write(
            "before-after",
            command=f"python benchmarks/before_after.py BEFORE --rounds {given.rounds} --minutes {given.minutes:g}",
            seeds=[COMMON["seed"]],
            figures={"before": commit, "comparisons": found},
            table={"columns": columns, "rows": rows},
        )


if __name__ == "__main__":
    main()
