"""How much memory loading takes: python benchmarks/loading.py [--quick]

Models of random weights, of 200 MB or more in the file, are loaded and prepared for decoding in fresh processes. The
growth of a process is its peak of resident memory (VmHWM: anonymous pages and pages of files) from the moment when all
is imported, and it is divided by the bytes of the weights as they are decoded with: 4 a number in fp32, 2 in bf16; in
int8 one a number of a product, and 4 a number of what stays in fp32 (2 in bf16 where the processor multiplies it). The
peer is transformers' ``from_pretrained`` of a MarianMT or LLaMA folder of the same size, which has no int8 of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import evidence

BOUND = 1.15
DTYPES = ("fp32", "bf16", "int8")
VOCABULARY, WIDTH, HEADS, INNER, LAYERS = 32_000, 768, 12, 3072, 6


def _status(key: str) -> int:
    with open("/proc/self/status", encoding="utf-8") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def growth(job: dict[str, Any]) -> dict[str, int]:
    """Load the model of a job in this process: {peak, kept}, bytes beyond what the imports took."""
    import torch

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}[job["dtype"]]
    if job["by"] == "transformers":
        import transformers

        kind = getattr(transformers, job["class"])
        before = _begun()
        model: Any = kind.from_pretrained(job["folder"], dtype=dtype).eval()
        for parameter in model.parameters():
            parameter.detach().sum()  # pages of a mapped file are read when they are used, in decoding at the latest
    else:
        from regard import directory
        from regard.accel import native
        from regard.accel.preparing import read_prepared, read_quantized
        from regard.models import decoder, transformer  # noqa: F401
        from regard.pipelines import translator  # noqa: F401

        native.library()
        before = _begun()

        def read(kind: torch.dtype, replacing: Any = None) -> directory.Loaded:
            return directory.load(job["folder"], "cpu", kind, replacing)

        if job["by"] == "regard, whole":
            model = (read_quantized(read) if dtype == torch.int8 else read(dtype)).model
        else:
            model = read_prepared(read, dtype).model
    found = {"peak": _status("VmHWM") - before, "kept": _status("VmRSS") - before}
    assert model is not None
    return found


def _begun() -> int:
    """The resident memory now, from which the peak is counted anew."""
    with contextlib.suppress(OSError):  # where it cannot be, the peak of the imports only makes the growth look larger
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    return _status("VmRSS")


def measured(job: dict[str, Any]) -> dict[str, int]:
    """``growth`` in a fresh process."""
    done = subprocess.run(
        [sys.executable, __file__, "--child", json.dumps(job)],
        capture_output=True, check=False, env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "2"},
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr.decode())
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


def make(folder: Path, kind: str, stored: str, vocabulary: int = VOCABULARY, layers: int = LAYERS) -> int:
    """Write a model of random weights as a model directory; returns how many weights it has."""
    import torch

    from regard import directory
    from regard.models import registry
    from regard.text.settings import TextSettings
    from regard.text.tokenizer import Tokenizer

    counts = {"layers": layers * 2} if kind == "decoder" else {"encoder_layers": layers, "decoder_layers": layers}
    options = registry.options_from(
        {"architecture": kind, "width": WIDTH, "heads": HEADS, "feedforward": INNER, **counts}
    )
    torch.manual_seed(0)
    model = options.build(vocabulary)
    dtype = {"fp32": torch.float32, "fp16": torch.float16}[stored]
    tokenizer = Tokenizer.train(["a man rides a horse"], vocabulary=280)
    directory.save(folder, model, options, TextSettings(), tokenizer, dtype=dtype, vocabulary=(vocabulary, None))
    return sum(parameter.numel() for parameter in model.parameters())


def make_peer(folder: Path, kind: str, stored: str) -> str:
    """Write a folder of transformers of about the same size; returns the class that reads it."""
    import torch
    import transformers

    torch.manual_seed(0)
    common = {"vocab_size": VOCABULARY, "max_position_embeddings": 512}
    if kind == "decoder":
        config: Any = transformers.LlamaConfig(
            hidden_size=WIDTH, intermediate_size=INNER * 2 // 3, num_hidden_layers=2 * LAYERS,
            num_attention_heads=HEADS, tie_word_embeddings=True, **common,
        )  # fmt: skip
        model: Any = transformers.LlamaForCausalLM(config)
    else:
        config = transformers.MarianConfig(
            d_model=WIDTH, encoder_layers=LAYERS, decoder_layers=LAYERS, encoder_ffn_dim=INNER, decoder_ffn_dim=INNER,
            encoder_attention_heads=HEADS, decoder_attention_heads=HEADS, pad_token_id=0, eos_token_id=3,
            decoder_start_token_id=0, decoder_vocab_size=VOCABULARY, **common,
        )  # fmt: skip
        model = transformers.MarianMTModel(config)
    model.to({"fp32": torch.float32, "fp16": torch.float16}[stored]).save_pretrained(folder)
    return type(model).__name__


def weights(folder: Path, dtype: str) -> int:
    """The bytes of the weights of a model directory as they are decoded with."""
    from math import prod

    from regard.accel.linear import available
    from regard.weights import open_weights

    if dtype != "int8":
        return sum(prod(tensor.shape) for tensor in open_weights(folder).values()) * {"fp32": 4, "bf16": 2}[dtype]
    import torch

    other, total = (2 if available(torch.bfloat16) else 4), 0
    for name, tensor in open_weights(folder).items():
        table = name.endswith("table.weight")  # it is looked things up in, and it makes the logits
        total += prod(tensor.shape) * (1 + other if table else 1 if len(tensor.shape) == 2 else 4)
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true", help="print, and write no evidence")
    given = parser.parse_args()
    if given.child:
        print(json.dumps(growth(json.loads(given.child))))
        return
    figures, rows = [], []
    for kind in ("transformer", "decoder"):
        for stored in ("fp32", "fp16"):
            with tempfile.TemporaryDirectory() as place:
                ours, theirs = Path(place) / "regard", Path(place) / "transformers"
                make(ours, kind, stored)
                peer = make_peer(theirs, kind, stored)
                for dtype in DTYPES:
                    for by in ("regard", "regard, whole", "transformers"):
                        if by == "transformers" and dtype == "int8":
                            continue
                        folder = theirs if by == "transformers" else ours
                        file = (folder / "model.safetensors").stat().st_size
                        job = {"by": by, "folder": str(folder), "dtype": dtype, "class": peer}
                        held = file // (4 if stored == "fp32" else 2) * (4 if dtype == "fp32" else 2)
                        held = held if by == "transformers" else weights(ours, dtype)
                        found = measured(job)
                        figures.append({**found, "model": kind, "stored": stored, "dtype": dtype, "by": by,
                                        "file": file, "weights": held})  # fmt: skip
                        name = peer if by == "transformers" else kind
                        rows.append([by, name, stored, dtype, f"{file / 1e6:.0f}", f"{held / 1e6:.0f}",
                                     f"{found['peak'] / 1e6:.0f}", f"{found['peak'] / held:.2f}"])  # fmt: skip
                        print(" · ".join(rows[-1]), flush=True)
    if given.quick:
        return
    evidence.write(
        "loading",
        command="python benchmarks/loading.py",
        figures={"bound": BOUND, "measured": figures},
        table={
            "columns": ["by", "model", "stored in", "decoded in", "MB of the file", "MB of the weights",
                        "MB of growth", "growth / weights"],
            "rows": rows,
        },
        note=f"The goal is at most {BOUND} times the weights. “regard” prepares for decoding while it reads; “regard, "
        "whole” keeps the modules, for recording and scoring, and prepares them when it first decodes.",
    )  # fmt: skip


if __name__ == "__main__":
    main()
