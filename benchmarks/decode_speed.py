"""Translation speed beside CTranslate2 and Hugging Face's generate: the same weights, search and batches.

    python benchmarks/decode_speed.py            # trains a Marian-shaped model first (10 minutes, once)
    python benchmarks/decode_speed.py --preset base --minutes 60 --rounds 3

Multi30k's test_2016_flickr (its sources only), cut into subwords beforehand; beam 1 and 5. Each backend gets the batch
size at which it is fastest on val. Rates are target tokens (subwords and end marks of the best hypothesis) a second;
reading the model and a first batch are not timed. Beside them the share of sentences for which a backend gives the very
ids that regard gives.
Run it when nothing else runs.
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import evidence
import multi30k
from contest import PEERS, WORK, avx2_alone, child, rounds, table

BACKENDS = {
    "regard": "regard", "regard:bf16": "regard, bf16", "regard:int8": "regard, int8",
    "ctranslate2": "CTranslate2",
    "ctranslate2:int8": "CTranslate2, int8", "huggingface": "Hugging Face generate",
}  # fmt: skip


# With these base learns most in an hour; post-norm begins to attend late (docs/engineering.md).
MODELS: dict[str, dict[str, Any]] = {"base": {"order": "pre"}}
TRAININGS: dict[str, dict[str, Any]] = {"base": {"learning_rate": 0.001, "warmup_steps": 300, "batch_tokens": 2048}}


def trained(minutes: float, preset: str = "tiny", device: str = "cpu", precision: str = "auto") -> Path:
    """A model of that shape, trained on Multi30k once; tiny is 4+4 layers, 128 wide.

    A training that was cut off is resumed.
    """
    import tomli_w

    run = WORK / f"decode-model-{preset}-{minutes:g}"
    if (run / "model.safetensors").exists():
        return run
    config = {
        "data": {
            "train": ["$REGARD_DATA/multi30k/train"], "valid": "$REGARD_DATA/multi30k/val",
            "source": multi30k.SOURCE, "target": multi30k.TARGET, "vocabulary": multi30k.VOCABULARY,
        },
        "model": {
            "architecture": "transformer", "preset": preset, "dropout": 0.1,
            "positions": {"kind": "sinusoidal", "interleaved": False}, **MODELS.get(preset, {}),
        },
        "training": {
            "minutes": minutes, "warmup_steps": 800, "validate_every": 200, "precision": precision,
            **TRAININGS.get(preset, {}),
        },
    }  # fmt: skip
    path = WORK / "decode.toml"
    path.write_text(tomli_w.dumps(config))
    given = ["--resume", run] if (run / "checkpoints").exists() else [path, "--run", run, "--force"]
    command = [sys.executable, "-m", "regard", "train", *given, "--device", device]
    child(command, threads=0, environment={"REGARD_DATA": str(evidence.data_folder())})
    return run


def translate(backend: str, model: Path, job: dict[str, Any], outputs: dict[str, list[list[int]]]) -> dict[str, Any]:
    path = WORK / "job.json"
    path.write_text(json.dumps(job))
    environment = avx2_alone() if job.get("avx2") else None
    command = [sys.executable, PEERS / "decode.py", backend, model, path]
    outcome = child(command, threads=job["threads"], environment=environment)
    measured = json.loads(outcome.output.strip().splitlines()[-1])
    outputs[BACKENDS.get(backend, backend)] = measured.pop("ids")
    return {"rate": measured["target_tokens"] / measured["seconds"], "peak_mib": outcome.peak_mib, **measured}


def fastest(backend: str, model: Path, job: dict[str, Any], sizes: list[int]) -> int:
    """The batch size at which a backend is fastest, tried once each."""
    if len(sizes) == 1:
        return sizes[0]
    rates = {size: translate(backend, model, {**job, "batch_tokens": size}, {})["rate"] for size in sizes}
    tried = ", ".join(f"{size}: {rate:,.0f}" for size, rate in rates.items())
    print(f"{BACKENDS[backend]}, target tokens/s on val by batch size: {tried}", file=sys.stderr, flush=True)
    return max(rates, key=lambda size: rates[size])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="tiny", help="the shape of the model that is trained")
    parser.add_argument("--minutes", type=float, default=10.0, help="of its training")
    parser.add_argument("--precision", default="auto", help="of its training: auto, fp32 or bf16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--beams", type=int, nargs="+", default=[1, 5])
    parser.add_argument("--sentences", type=int, default=1000)
    parser.add_argument(
        "--batch-tokens", type=int, nargs="+", default=[1024, 2048, 4096, 8192], metavar="N",
        help="source tokens of a batch, padding counted: the sizes that are tried",
    )  # fmt: skip
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 = each backend's choice")
    parser.add_argument("--again", action="store_true", help="time the second time that all is translated")
    parser.add_argument("--avx2", action="store_true", help="backends keep to AVX2, also where there is more; no bf16")
    parser.add_argument("--only", nargs="+", default=[], choices=list(BACKENDS))
    parser.add_argument("--quick", action="store_true", help="see that everything runs; nothing is written")
    given = parser.parse_args()
    if given.quick:
        given.rounds, given.sentences, given.batch_tokens = 1, 40, [256, 512]
    backends = given.only or [backend for backend in BACKENDS if not (given.avx2 and backend == "regard:bf16")]
    from regard.text.tokenizer import Tokenizer

    WORK.mkdir(parents=True, exist_ok=True)
    model = trained(given.minutes, given.preset, precision=given.precision)
    tokenizer = Tokenizer.read(model / "tokenizer.json", ("nfc",))
    sources, tries = (
        tokenizer.encode_batch(multi30k.raw(split)[0][: given.sentences]) for split in ("test_2016_flickr", "val")
    )
    sizes_tried = " ".join(map(str, given.batch_tokens))
    words = f"--preset {given.preset} --minutes {given.minutes:g} --rounds {given.rounds} --batch-tokens {sizes_tried}"
    words += f" --sentences {given.sentences}" if given.sentences < 1000 else ""
    words += f" --precision {given.precision}" if given.precision != "auto" else ""
    words += " --avx2" if given.avx2 else ""
    words += " --again" if given.again else ""
    words += f" --only {' '.join(given.only)}" if given.only else ""
    kind = ("-avx2" if given.avx2 else "") + ("-again" if given.again else "")
    for beam in given.beams:
        job = {
            "sources": sources, "beam": beam, "threads": given.threads, "max_extra": 50, "device": "cpu",
            "precision": "fp32", "avx2": given.avx2, "again": given.again,
        }  # fmt: skip
        sizes = {
            backend: fastest(backend, model, {**job, "sources": tries}, given.batch_tokens) for backend in backends
        }
        outputs: dict[str, list[list[int]]] = {}
        contenders = {
            BACKENDS[backend]: partial(translate, backend, model, {**job, "batch_tokens": size}, outputs)
            for backend, size in sizes.items()
        }
        figures = rounds(contenders, given.rounds, "target tokens/s")
        figures["batch_tokens"] = {BACKENDS[backend]: size for backend, size in sizes.items()}
        ours = outputs.get("regard", [])
        figures["same_ids"] = {
            name: round(sum(a == b for a, b in zip(ours, found, strict=True)) / len(found), 4)
            for name, found in outputs.items()
            if ours
        }
        told = {key: figures[key] for key in ("rate", "peak_mib", "ratio", "same_ids", "batch_tokens")}
        print(json.dumps({"beam": beam, **told}, indent=2))
        if not given.quick:
            evidence.write(
                f"decode-speed-{given.preset}{kind}-beam-{beam}",
                command=f"python benchmarks/decode_speed.py {words} --beams {beam}",
                figures=figures,
                table=table(figures, "target tokens/s", memory=False),  # the others convert the model in-process
                packages=["ctranslate2", "transformers"],
            )


if __name__ == "__main__":
    main()
