"""Training speed beside others: the same tokens, shape and batch budget, in turn on the same machine.

    python benchmarks/train_speed.py            # 5 rounds, results/train-speed-tiny/, about 35 minutes on 2 cores
    python benchmarks/train_speed.py --preset base --rounds 3 --updates 12    # the paper's base
    python benchmarks/train_speed.py --quick    # a few updates each: does everything run?

Multi30k en-de in 8,000 joint subwords; the shape of a preset (tiny: 4+4 layers, 128 wide, F 256, 4 heads), dropout 0.1,
label smoothing 0.1, Adam; batches of 4,096 tokens (sentences × longest side). Rates are target tokens (subwords and end
marks, no padding) a second of wall time after the warm-up, without validation and saving. Contenders:

- regard: `regard train`, as anyone runs it; with `training.precision = "bf16"`, products in bf16, weights and sums in
  fp32; and by torchrun, a process a core, which share each batch;
- JoeyNMT 2.3: `joeynmt train` in an environment of its own (made by this script), and once more with the C library
  told to keep freed memory, which JoeyNMT does not ask for;
- eole 0.6.4, OpenNMT's successor: `eole train` likewise, freed memory kept; pre-norm, as it is built;
- in one plain loop (peers/loop.py), all keeping their memory: a Transformer on SDPA (peers/sdpa.py),
  torch.nn.Transformer and Hugging Face's MarianMT;
- Hugging Face's Trainer with the same MarianMT and batches (peers/trainer.py), in an environment of its own.

JoeyNMT makes batches of unsorted sentences, which is part of its speed. Run it when nothing else runs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
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
from contest import KEPT, PEERS, SHAPES, WORK, Outcome, avx2_alone, child, cores, peer, rounds, table

COMMON: dict[str, Any] = {"dropout": 0.1, "label_smoothing": 0.1, "seed": 1, "device": "cpu", "precision": "fp32"}
# Day and time, milliseconds, target tokens a second.
JOEYNMT = re.compile(r"^(\S+ \S+?),(\d+) .* Step: .* Tokens per Sec: +(\d+),", re.MULTILINE)
EOLE = re.compile(r"^\[(\S+ \S+?),(\d+) INFO\] Step .*/(\d+) tok/s;", re.MULTILINE)


def regard(shape: Mapping[str, Any], processes: int = 1) -> dict[str, Any]:
    """`regard train` in a fresh run; its data are prepared in the first round and found in the others.

    Several processes, through torchrun, have a thread each and share the batch.
    """
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
            "steps": shape["warmup"] + shape["updates"], "batch_tokens": shape["batch_tokens"] // processes,
            "label_smoothing": shape["label_smoothing"], "validate_every": never, "save_every": never,
            "log_every": shape["warmup"], "validate_sentences": 20,
            "threads": shape["threads"] if processes == 1 else 1,
            "precision": shape["precision"],
        },
    }  # fmt: skip
    path = WORK / "regard.toml"
    path.write_text(tomli_w.dumps(config))
    command = [sys.executable, "-m", "regard", "train", path, "-o", run, "--device", shape["device"]]
    if processes > 1:
        command[1:1] = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    outcome = child(command, threads=shape["threads"], environment={"REGARD_DATA": str(evidence.data_folder())})
    # Both files have a row every `warmup` updates; nothing is validated or saved between the first and the last.
    tokens, seconds = (last_minus_first(run / name, key) for name, key in (
        ("metrics.jsonl", "target_tokens"), ("timing.jsonl", "seconds"),
    ))  # fmt: skip
    return {"rate": tokens / seconds, "target_tokens": tokens, "seconds": seconds, "peak_mib": outcome.peak_mib}


def last_minus_first(path: Path, key: str) -> float:
    """The increase of a running total between the first and the last log of training."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    totals = [row[key] for row in rows if row["kind"] == "train"]
    return float(totals[-1] - totals[0])


def joeynmt(shape: dict[str, Any], data: Path, kept: bool) -> dict[str, Any]:
    """`joeynmt train`, by its log."""
    command = [peer("joeynmt"), "-m", "joeynmt", "train", filled("joeynmt", shape, data), "--skip-test"]
    outcome = child(command, threads=shape["threads"], environment=KEPT if kept else None)
    return by_windows(outcome, JOEYNMT)


def eole(shape: dict[str, Any], data: Path) -> dict[str, Any]:
    """`eole train`, by its log."""
    command = [peer("eole").with_name("eole"), "train", "-config", filled("eole", shape, data)]
    return by_windows(child(command, threads=shape["threads"], environment=KEPT), EOLE)


def filled(name: str, shape: dict[str, Any], data: Path) -> Path:
    """A peer's configuration with the shape in it."""
    words = {key.upper(): str(value) for key, value in shape.items()}
    words |= {"DATA": str(data), "FOLDER": str(WORK / f"{name}-run"), "WINDOW": str(shape["warmup"])}
    words |= {"UPDATES": str(shape["warmup"] + shape["updates"]), "VOCABULARY": str(multi30k.VOCABULARY)}
    config = WORK / f"{name}.yaml"
    lines = (PEERS / f"{name}.yaml").read_text().splitlines(keepends=True)
    config.write_text("".join(string.Template(line).substitute(words) for line in lines if not line.startswith("#")))
    return config


def by_windows(outcome: Outcome, line: re.Pattern[str]) -> dict[str, Any]:
    """The rate of a peer's own log: windows weighted by their time, the warm-up's left out."""
    windows = [
        (datetime.fromisoformat(day).timestamp() + int(milliseconds) / 1000, int(rate))
        for day, milliseconds, rate in line.findall(outcome.output)
    ]
    tokens = seconds = 0.0
    for (before, _), (now, rate) in itertools.pairwise(windows):
        tokens, seconds = tokens + rate * (now - before), seconds + now - before
    if not seconds:
        sys.exit(f"no windows in the peer's log:\n{outcome.output[-2000:]}")
    return {
        "rate": tokens / seconds, "target_tokens": round(tokens), "seconds": seconds, "peak_mib": outcome.peak_mib,
    }  # fmt: skip


def plain(kind: str, shape: Mapping[str, Any], data: Path, vocabulary: int = multi30k.VOCABULARY) -> dict[str, Any]:
    """A plain loop over the SDPA model, torch.nn.Transformer or MarianMT; or MarianMT in Hugging Face's Trainer."""
    path = WORK / "shape.json"
    path.write_text(json.dumps({**shape, "vocabulary": vocabulary}))
    if kind == "trainer":
        command, kept = [peer("trainer"), PEERS / "trainer.py"], KEPT
    else:  # it asks the C library itself
        command, kept = [sys.executable, PEERS / "loop.py", kind], None
    outcome = child([*command, data, path], threads=shape["threads"], environment=kept)
    measured = json.loads(outcome.output.strip().splitlines()[-1])
    return {"rate": measured["target_tokens"] / measured["seconds"], "peak_mib": outcome.peak_mib, **measured}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="tiny", choices=list(SHAPES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=60, help="updates timed in each run, after 10 of warm-up")
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of each contender; 0 = PyTorch's choice")
    names = "regard bf16 torchrun joeynmt kept eole sdpa torch marian trainer"
    parser.add_argument("--avx2", action="store_true", help="everyone keeps to AVX2, also where there is more")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help=f"of: {names}")
    parser.add_argument("--quick", action="store_true", help="see that everything runs; nothing is written")
    given = parser.parse_args()
    if given.quick:
        given.rounds, given.updates, given.batch_tokens = 1, 4, 512
    warmup = 2 if given.quick else 10
    if given.updates < warmup or given.updates % warmup:
        parser.error(f"--updates {given.updates}: expected a multiple of {warmup}, the updates of a log's window")
    if given.avx2:
        os.environ.update(avx2_alone())
    data = WORK / "multi30k"
    multi30k.prepare(data)
    shape = SHAPES[given.preset] | COMMON
    shape |= {key: getattr(given, key) for key in ("batch_tokens", "updates", "threads")}
    shape["warmup"] = warmup
    processes = given.threads or len(cores())
    every = {
        "regard": ("regard", lambda: regard(shape)),
        "bf16": ("regard, bf16", lambda: regard({**shape, "precision": "bf16"})),
        "torchrun": (f"regard, {processes} processes", lambda: regard(shape, processes)),
        "joeynmt": ("JoeyNMT 2.3", lambda: joeynmt(shape, data, kept=False)),
        "kept": ("JoeyNMT 2.3, freed memory kept", lambda: joeynmt(shape, data, kept=True)),
        "eole": ("eole 0.6.4", lambda: eole(shape, data)),
        "sdpa": ("plain SDPA loop", lambda: plain("sdpa", shape, data)),
        "torch": ("torch.nn.Transformer, plain loop", lambda: plain("torch", shape, data)),
        "marian": ("Hugging Face MarianMT, plain loop", lambda: plain("marian", shape, data)),
        "trainer": ("Hugging Face MarianMT, Trainer", lambda: plain("trainer", shape, data)),
    }
    chosen = dict(contender for key, contender in every.items() if not given.only or key in given.only)
    figures = rounds(chosen, given.rounds, "target tokens/s")
    print(json.dumps({key: figures[key] for key in ("rate", "peak_mib", "ratio")}, indent=2))
    if not given.quick:
        words = f"--preset {given.preset} --rounds {given.rounds} --updates {given.updates}"
        words += f" --only {' '.join(given.only)}" if given.only else ""
        words += " --avx2" if given.avx2 else ""
        evidence.write(
            f"train-speed-{given.preset}{'-avx2' if given.avx2 else ''}",
            command=f"python benchmarks/train_speed.py {words}",
            seeds=[shape["seed"]],
            figures={"shape": shape, **figures},
            table=table(figures, "target tokens/s"),
            packages=["transformers"],
            note="The versions of JoeyNMT, eole and the Trainer stand in benchmarks/peers/*.txt",
        )


if __name__ == "__main__":
    main()
