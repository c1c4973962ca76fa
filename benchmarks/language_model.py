"""A language model of characters beside nanoGPT's: python benchmarks/language_model.py --nanogpt PATH/TO/nanoGPT

The setting is the one that nanoGPT's README gives for a CPU: tinyshakespeare, 4 layers, 4 heads, 128 wide, blocks of 64
characters, 12 of them an update, 2,000 updates. Both train on the first 90 % of the characters; their losses are the
mean over the whole rest, in blocks of 64. nanoGPT is https://github.com/karpathy/nanoGPT, which is not packaged.
Run it when nothing else runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import evidence

SETTING = {"layers": 4, "heads": 4, "width": 128, "block": 64, "batch": 12, "steps": 2000, "learning_rate": 1e-3}
RECIPE = evidence.ROOT / "recipes" / "tinyshakespeare.toml"


def divided(folder: Path) -> tuple[Path, Path]:
    """nanoGPT's split of the text, at nine tenths of its characters."""
    text = (evidence.data_folder() / "tinyshakespeare" / "input.txt").read_text("utf-8")
    cut = int(0.9 * len(text))
    train, valid = folder / "train.txt", folder / "valid.txt"
    train.write_text(text[:cut], "utf-8")
    valid.write_text(text[cut:], "utf-8")
    return train, valid


def ours(train: Path, valid: Path, run: Path, seed: int, steps: int) -> dict[str, Any]:
    """One training by the command line; its updates are timed by the run itself."""
    begun = time.perf_counter()
    command = [sys.executable, "-m", "regard", "train", str(RECIPE), "--run", str(run), "--json", "--seed", str(seed)]
    given = [f"data.train={json.dumps([str(train)])}", f"data.valid={valid}", f"training.steps={steps}"]
    for value in given:
        command += ["--set", value]
    found = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    whole = time.perf_counter() - begun
    rows = [json.loads(line) for line in (run / "timing.jsonl").read_text("utf-8").splitlines()]
    seconds = sum(row["target_tokens"] / row["tokens_per_second"] for row in _steps(run, rows))
    return {"loss": found["loss"], "seconds": seconds, "whole": whole}


def _steps(run: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of the log with the target tokens since the row before."""
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
    tokens = {row["step"]: row["target_tokens"] for row in metrics if row["kind"] == "train"}
    found, before = [], 0
    for row in rows:
        if row["kind"] == "train" and row["step"] in tokens:
            found.append({**row, "target_tokens": tokens[row["step"]] - before})
            before = tokens[row["step"]]
    return found


def theirs(folder: str, train: Path, valid: Path, place: Path, seed: int) -> dict[str, Any]:
    setting = place / "setting.json"
    setting.write_text(json.dumps({**SETTING, "seed": seed}), "utf-8")
    peer = Path(__file__).parent / "peers" / "nanogpt.py"
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, str(peer), folder, str(train), str(valid), str(setting)],
        capture_output=True, check=True, text=True,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {**found, "whole": time.perf_counter() - begun}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", required=True, help="a clone of nanoGPT")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=SETTING["steps"], help="regard's updates; nanoGPT's are 2,000")
    given = parser.parse_args()
    shorter = given.steps != SETTING["steps"]
    name_of_ours = f"regard, {given.steps:,} updates"
    found: dict[str, list[dict[str, Any]]] = {name_of_ours: [], "nanoGPT, 2,000 updates": []}
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        train, valid = divided(place)
        for seed in given.seeds:  # in turn, so that both see the machine in the same state
            found[name_of_ours].append(ours(train, valid, place / f"run-{seed}", seed, given.steps))
            found["nanoGPT, 2,000 updates"].append(theirs(given.nanogpt, train, valid, place, seed))
            print({name: rows[-1] for name, rows in found.items()}, file=sys.stderr)
    rows = []
    for name, each in found.items():
        losses, seconds = [one["loss"] for one in each], [one["seconds"] for one in each]
        rows.append(
            [
                name,
                f"{statistics.mean(losses):.4f} ({', '.join(f'{loss:.4f}' for loss in losses)})",
                f"{statistics.median(seconds):.1f}",
                f"{statistics.median(one['whole'] for one in each):.1f}",
            ]
        )
    evidence.write(
        f"tinyshakespeare-{given.steps}" if shorter else "tinyshakespeare",
        command=f"python benchmarks/language_model.py --nanogpt PATH --seeds {' '.join(map(str, given.seeds))}"
        + (f" --steps {given.steps}" if shorter else ""),
        seeds=given.seeds,
        figures={"runs": found, "setting": SETTING},
        table={
            "columns": ["", "loss a character, mean (seeds)", "seconds of the updates", "of the whole process"],
            "rows": rows,
        },
        note="Loss: over the whole validation part in blocks of 64. The whole process of regard validates, saves "
        "checkpoints and writes the model too; nanoGPT's has no evaluations.",
    )
    for row in rows:
        print(" · ".join(row))


if __name__ == "__main__":
    main()
