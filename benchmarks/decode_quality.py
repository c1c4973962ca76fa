"""The cost of a decoding precision in quality: BLEU on validation data, greedy and with beam 5.

    python benchmarks/decode_quality.py              # results/decode-quality; eight minutes

The packaged model on Tatoeba's dev; and on Multi30k's val the models that decode_speed.py has trained, where they are.
CTranslate2 runs the same weights where it is installed. No test set is read.
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path
from typing import Any

import evidence
import torch
from contest import WORK

import regard
from regard.evaluation import corpus_scores

#: What it is called → dtype and backend.
PRECISIONS = {
    "fp32": (torch.float32, "regard"), "bf16": (torch.bfloat16, "regard"), "int8": (torch.int8, "regard"),
    "CTranslate2, fp32": (torch.float32, "ctranslate2"), "CTranslate2, int8": (torch.float32, "ctranslate2:int8"),
}  # fmt: skip
BEAMS = (1, 5)
POWER = "power:1.0"  # the length penalty that both backends have


def models() -> dict[str, tuple[str, str, str, str]]:
    """Name → model, corpus, source and target language."""
    trained = {
        f"{folder.name.split('-')[2]}, Multi30k val": (str(folder), "multi30k/val", "en", "de")
        for folder in (WORK / "decode-model-tiny-10", WORK / "decode-model-base-20")
        if Path(folder, "model.safetensors").exists()
    }
    return {"packaged model, Tatoeba dev": ("zh-en", "tatoeba-zh-en/dev", "zh", "en"), **trained}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=0, help="of each corpus; 0 = all, and then it is written down")
    given = parser.parse_args()
    rows: list[list[Any]] = []
    for title, (model, corpus, source, target) in models().items():
        data = evidence.data_folder()
        sources, references = (
            evidence.lines_of(data / f"{corpus}.{end}")[: given.lines or None] for end in (source, target)
        )
        for name, (dtype, backend) in PRECISIONS.items():
            if backend != "regard" and importlib.util.find_spec("ctranslate2") is None:
                continue
            translator = regard.load(model, dtype=dtype, backend=backend)
            scores = []
            for beam in BEAMS:
                found = translator.translate(sources, beam=beam, length_penalty=POWER, no_repeat=False)
                scores.append(f"{corpus_scores([one.text for one in found], references, target).bleu:.2f}")
            rows.append([title, name, *scores])
            print(*rows[-1], sep="\t", flush=True)
    if not given.lines:
        evidence.write(
            "decode-quality",
            command="python benchmarks/decode_quality.py",
            table={"columns": ["", "", *(f"BLEU, beam {beam}" for beam in BEAMS)], "rows": rows},
            packages=["ctranslate2"],
        )


if __name__ == "__main__":
    main()
