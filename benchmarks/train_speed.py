"""Training speed beside others: the same tokens, shape and batch budget, in turn on the same machine.

    python benchmarks/train_speed.py            # 5 rounds, results/train-speed/, about 25 minutes on 2 cores
    python benchmarks/train_speed.py --quick    # a few updates each: does everything run?

Multi30k en-de in 8,000 joint subwords; 4+4 layers, 128 wide, F 256, 4 heads, dropout 0.1, label smoothing 0.1, Adam;
batches of 4,096 tokens (sentences × longest side). Rates are target tokens (subwords and end marks, no padding) a
second of wall time after the warm-up, without validation and saving. Contenders:

- regard: `regard train`, as anyone runs it;
- JoeyNMT 2.3: `joeynmt train` in an environment of its own (made by this script), and once more with the C library
  told to keep freed memory, which JoeyNMT does not ask for;
- plain SDPA loop (peers/sdpa.py) and Hugging Face MarianMT in the same plain loop, both keeping their memory.

JoeyNMT makes batches of unsorted sentences, which is part of its speed. Run it when nothing else runs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import shutil
import string
import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import evidence
import multi30k
from contest import KEPT, PEERS, WORK, child, peer, rounds, table

SHAPE: dict[str, Any] = {
    "width": 128, "layers": 4, "heads": 4, "feedforward": 256, "dropout": 0.1, "label_smoothing": 0.1, "seed": 1,
    "device": "cpu", "precision": "fp32",
}  # fmt: skip
LINE = re.compile(r"^(\S+ \S+?),(\d+) .* Step: +(\d+),.* Tokens per Sec: +(\d+),", re.MULTILINE)


def regard(shape: Mapping[str, Any]) -> dict[str, Any]:
    """`regard train` in a fresh run; its data are prepared in the first round and found in the others."""
    import tomli_w

    run = WORK / "run"
    shutil.rmtree(run, ignore_errors=True)
    never = 10**9
    config = {
        "seed": shape["seed"],
        "data": {
            "train": ["$REGARD_DATA/multi30k/train"], "valid": "$REGARD_DATA/multi30k/val",
            "source": multi30k.SOURCE, "target": multi30k.TARGET, "vocabulary": multi30k.VOCABULARY,
            "cache": str(WORK / "shards"),
        },
        "model": {
            "architecture": "transformer", "width": shape["width"], "heads": shape["heads"],
            "encoder_layers": shape["layers"], "decoder_layers": shape["layers"],
            "feedforward": shape["feedforward"], "dropout": shape["dropout"],
        },
        "training": {
            "steps": shape["warmup"] + shape["updates"], "batch_tokens": shape["batch_tokens"],
            "label_smoothing": shape["label_smoothing"], "validate_every": never, "save_every": never,
            "log_every": shape["warmup"], "validate_sentences": 20, "threads": shape["threads"],
            "precision": shape["precision"],
        },
    }  # fmt: skip
    path = WORK / "regard.toml"
    path.write_text(tomli_w.dumps(config))
    command = [sys.executable, "-m", "regard", "train", path, "--run", run, "--device", shape["device"]]
    outcome = child(command, threads=shape["threads"], environment={"REGARD_DATA": str(evidence.data_folder())})
    # Both files have a row every `warmup` updates; nothing is validated or saved between the first and the last.
    tokens, seconds = (last_minus_first(run / name, key) for name, key in (
        ("metrics.jsonl", "target_tokens"), ("timing.jsonl", "seconds"),
    ))  # fmt: skip
    return {"rate": tokens / seconds, "target_tokens": tokens, "seconds": seconds, "peak_mib": outcome.peak_mib}


def last_minus_first(path: Path, key: str) -> float:
    """What was added to a running total between the first and the last log of training."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    totals = [row[key] for row in rows if row["kind"] == "train"]
    return float(totals[-1] - totals[0])


def joeynmt(shape: dict[str, Any], data: Path, kept: bool) -> dict[str, Any]:
    """`joeynmt train`: the rate of its own log, windows weighted by their time, the warm-up's left out."""
    python = peer("joeynmt")
    names = {key.upper(): str(value) for key, value in shape.items()}
    names |= {"DATA": str(data), "FOLDER": str(WORK / "joeynmt-run"), "WINDOW": str(shape["warmup"])}
    names["UPDATES"] = str(shape["warmup"] + shape["updates"])
    config = WORK / "joeynmt.yaml"
    lines = (PEERS / "joeynmt.yaml").read_text().splitlines(keepends=True)
    config.write_text("".join(string.Template(line).substitute(names) for line in lines if not line.startswith("#")))
    command = [python, "-m", "joeynmt", "train", config, "--skip-test"]
    outcome = child(command, threads=shape["threads"], environment=KEPT if kept else None)
    windows = [
        (datetime.fromisoformat(day).timestamp() + int(milliseconds) / 1000, int(step), int(rate))
        for day, milliseconds, step, rate in LINE.findall(outcome.output)
    ]
    tokens = seconds = 0.0
    for (before, *_), (now, _, rate) in itertools.pairwise(windows):
        tokens, seconds = tokens + rate * (now - before), seconds + now - before
    if not seconds:
        sys.exit(f"no windows in JoeyNMT's log:\n{outcome.output[-2000:]}")
    return {
        "rate": tokens / seconds, "target_tokens": round(tokens), "seconds": seconds, "peak_mib": outcome.peak_mib,
    }  # fmt: skip


def plain(kind: str, shape: Mapping[str, Any], data: Path, vocabulary: int = multi30k.VOCABULARY) -> dict[str, Any]:
    """A plain loop over the SDPA model or over MarianMT."""
    path = WORK / "shape.json"
    path.write_text(json.dumps({**shape, "vocabulary": vocabulary}))
    outcome = child([sys.executable, PEERS / "loop.py", kind, data, path], threads=shape["threads"])
    measured = json.loads(outcome.output.strip().splitlines()[-1])
    return {"rate": measured["target_tokens"] / measured["seconds"], "peak_mib": outcome.peak_mib, **measured}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=60, help="updates timed in each run, after 10 of warm-up")
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of each contender; 0 = PyTorch's choice")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="of: regard joeynmt kept sdpa marian")
    parser.add_argument("--quick", action="store_true", help="see that everything runs; nothing is written")
    given = parser.parse_args()
    if given.quick:
        given.rounds, given.updates, given.batch_tokens = 1, 4, 512
    data = WORK / "multi30k"
    multi30k.prepare(data)
    shape = {**SHAPE, "batch_tokens": given.batch_tokens, "updates": given.updates, "threads": given.threads}
    shape["warmup"] = 2 if given.quick else 10
    every = {
        "regard": ("regard", lambda: regard(shape)),
        "joeynmt": ("JoeyNMT 2.3", lambda: joeynmt(shape, data, kept=False)),
        "kept": ("JoeyNMT 2.3, freed memory kept", lambda: joeynmt(shape, data, kept=True)),
        "sdpa": ("plain SDPA loop", lambda: plain("sdpa", shape, data)),
        "marian": ("Hugging Face MarianMT, plain loop", lambda: plain("marian", shape, data)),
    }
    chosen = dict(contender for key, contender in every.items() if not given.only or key in given.only)
    figures = rounds(chosen, given.rounds, "target tokens/s")
    print(json.dumps({key: figures[key] for key in ("rate", "peak_mib", "ratio")}, indent=2))
    if not given.quick:
        command = f"python benchmarks/train_speed.py --rounds {given.rounds} --updates {given.updates}"
        evidence.write(
            "train-speed",
            command=command,
            seeds=[shape["seed"]],
            figures={"shape": shape, **figures},
            table=table(figures, "target tokens/s"),
            packages=["transformers"],
            note="JoeyNMT's versions stand in benchmarks/peers/joeynmt.txt",
        )


if __name__ == "__main__":
    main()
