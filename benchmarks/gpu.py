"""Training and decoding on one GPU, beside a plain loop, Hugging Face and CTranslate2: one command, within 10 minutes.

    python benchmarks/gpu.py                        # results/gpu-train and results/gpu-decode
    python benchmarks/gpu.py --device cpu --quick   # a tiny shape: does everything run? nothing is written

Training, the paper's base and big in bf16: random pairs in 37,000 subwords, the same for all, and Multi30k in 8,000 by
`regard train` itself; regard once more compiled. The share is of what the GPU makes of the model's own products, each
alone. Decoding: base, trained on Multi30k for a minute, then its test_2016_flickr (sources only), beam 1 and 4.

Beside PyTorch it wants what regard and Hugging Face's transformers need; CTranslate2 takes part where it is installed.
What needs Multi30k is left out, and said, where REGARD_DATA does not have it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import decode_speed
import evidence
import multi30k
import train_speed
from contest import SHAPES, WORK, child, rounds, table

Contenders = Mapping[str, Callable[[], dict[str, Any]]]
SEED = 1


def random_ids(folder: Path, vocabulary: int, length: float, longest: int) -> None:
    """The pairs of `regard bench train`, where the plain loops read theirs."""
    from regard.bench.training import random_pairs

    folder.mkdir(parents=True, exist_ok=True)
    multi30k.write_ids(folder, "train", *random_pairs(SEED, vocabulary, length, longest))


def bench(preset: str, shape: Mapping[str, Any], length: float, compiled: bool = False) -> dict[str, Any]:
    """`regard bench train`, and its share of what the model's own products reach."""
    command = [
        sys.executable, "-m", "regard", "bench", "train", preset, "--json", "--vocabulary", str(shape["vocabulary"]),
        "--batch-tokens", str(shape["batch_tokens"]), "--updates", str(shape["updates"]), "--length", str(length),
        "--precision", shape["precision"], "--device", shape["device"], *(["--compile"] if compiled else []),
    ]  # fmt: skip
    outcome = child(command, threads=0)
    found = json.loads(outcome.output[outcome.output.index("{") :])
    share = found.pop("share") * found["matrix_rate"] / found["shape_rate"]
    return {
        **found, "rate": found["target_tokens_per_second"], "peak_mib": found["peak_bytes"] / 2**20,
        "share_of_own_products": share,
    }  # fmt: skip


def plain(kind: str, shape: Mapping[str, Any], data: Path) -> dict[str, Any]:
    found = train_speed.plain(kind, shape, data, vocabulary=shape["vocabulary"])
    return {**found, "peak_mib": found.get("device_peak_mib", found["peak_mib"])}


def beside(
    ours: Callable[[], dict[str, Any]], shape: Mapping[str, Any], data: str
) -> dict[str, Callable[[], dict[str, Any]]]:
    return {
        "regard": ours,
        "plain SDPA loop": partial(plain, "sdpa", shape, WORK / data),
        "Hugging Face MarianMT, plain loop": partial(plain, "marian", shape, WORK / data),
    }


def contest(title: str, contenders: Contenders, runs: int) -> dict[str, Any]:
    print(f"-- {title}", file=sys.stderr)
    figures = rounds(contenders, runs, "target tokens/s")
    summary = {key: figures[key] for key in ("rate", "peak_mib", "ratio")}
    ours = figures["rounds"]["regard"][-1]
    if "share_of_own_products" in ours:
        # The same pairs are the same work: shares are as the rates.
        share = ours["share_of_own_products"] / ours["rate"]
        figures["share"] = summary["share"] = {name: round(share * rate, 3) for name, rate in figures["rate"].items()}
    print(json.dumps({title: summary}, indent=2))
    return figures


def training(given: argparse.Namespace, presets: list[str]) -> dict[str, Any]:
    """Every comparison by its title."""
    common = {
        "label_smoothing": 0.1, "seed": SEED, "threads": 0, "warmup": 3, "device": given.device,
        "precision": given.precision, "batch_tokens": given.batch_tokens, "updates": given.updates,
    }  # fmt: skip
    found = {}
    for preset in presets:
        shape = {**SHAPES[preset], **common, "vocabulary": given.vocabulary}
        random_ids(WORK / "random", given.vocabulary, given.length, given.batch_tokens - 1)
        contenders = beside(partial(bench, preset, shape, given.length), shape, "random")
        if given.device != "cpu":
            contenders["regard, compiled"] = partial(bench, preset, shape, given.length, compiled=True)
        runs = given.rounds if preset == presets[0] else 1
        found[f"{preset}, random pairs"] = contest(f"{preset}, random pairs", contenders, runs)
    if not has_multi30k():
        return found
    preset = presets[0]
    multi30k.prepare(WORK / "multi30k")
    shape = {**SHAPES[preset], **common, "vocabulary": multi30k.VOCABULARY}
    contenders = beside(partial(train_speed.regard, shape), shape, "multi30k")
    found[f"{preset}, Multi30k"] = contest(f"{preset}, Multi30k", contenders, given.rounds)
    return found


def decoding(given: argparse.Namespace, preset: str) -> dict[str, Any]:
    """Every beam by its title; nothing without Multi30k."""
    if not has_multi30k():
        return {}
    from regard.text.tokenizer import Tokenizer

    model = decode_speed.trained(given.minutes, preset, given.device)
    lines = multi30k.raw("test_2016_flickr")[0][: given.sentences]
    sources = Tokenizer.read(model / "tokenizer.json", ("nfc",)).encode_batch(lines)
    backends = ["regard", "huggingface"]
    if importlib.util.find_spec("ctranslate2") is not None:
        backends.append("ctranslate2:bfloat16" if given.precision == "bf16" else "ctranslate2:float32")
    found = {}
    for beam in (1, 4):
        job = {
            "sources": sources, "beam": beam, "batch_tokens": given.batch_tokens, "threads": 0, "max_extra": 50,
            "device": given.device, "precision": given.precision,
        }  # fmt: skip
        contenders = {backend: partial(decode_speed.translate, backend, model, job, {}) for backend in backends}
        title = f"{preset}, beam {beam}"
        found[title] = contest(title, contenders, given.rounds)
    return found


def has_multi30k() -> bool:
    there = (evidence.data_folder() / "multi30k").is_dir()
    if not there:
        print("Multi30k is not there: left out (set REGARD_DATA)", file=sys.stderr)
    return there


def write(name: str, found: Mapping[str, Any]) -> None:
    """One table of all comparisons; the peaks of whole programs are the host's and not in it."""
    rows, columns = [], []
    for title, figures in found.items():
        part = table(figures, "target tokens/s", memory=False)
        columns = ["", *part["columns"], "peak on the device, MiB", "share of the model's own products"]
        shares = figures.get("share", {})
        for row in part["rows"]:
            measured = [figures["peak_mib"][row[0]], f"{shares[row[0]]:.0%}"] if row[0] in shares else ["", ""]
            rows.append([title, *row, *measured])
    evidence.write(
        name,
        command="python benchmarks/gpu.py",
        seeds=[SEED],
        figures=found,
        table={"columns": columns, "rows": rows},
        packages=["transformers"],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--precision", default="", choices=["fp32", "bf16"], help="default: bf16 on a GPU, fp32 else")
    parser.add_argument("--rounds", type=int, default=2, help="one of big, whatever this says")
    parser.add_argument("--updates", type=int, default=40, help="updates timed in each run, after 3 of warm-up")
    parser.add_argument("--batch-tokens", type=int, default=25_000, help="sentences × longest side")
    parser.add_argument("--vocabulary", type=int, default=37_000, help="of the random pairs")
    parser.add_argument("--length", type=float, default=28.0, help="their mean length in subwords")
    parser.add_argument("--minutes", type=float, default=1.0, help="training of the model that decodes")
    parser.add_argument("--sentences", type=int, default=1000, help="that it translates")
    parser.add_argument("--quick", action="store_true", help="see that everything runs; nothing is written")
    given = parser.parse_args()
    given.precision = given.precision or ("fp32" if given.device == "cpu" else "bf16")
    presets = ["base", "big"]
    if given.quick:
        presets, given.rounds, given.updates, given.batch_tokens = ["tiny"], 1, 3, 256
        given.vocabulary, given.length, given.minutes, given.sentences = 500, 8.0, 0.1, 20
    WORK.mkdir(parents=True, exist_ok=True)
    # Training is written before decoding starts, so that a failure there does not lose it.
    for name, measure in (
        ("gpu-train", lambda: training(given, presets)),
        ("gpu-decode", lambda: decoding(given, presets[0])),
    ):
        found = measure()
        if found and not given.quick:
            write(name, found)


if __name__ == "__main__":
    main()
