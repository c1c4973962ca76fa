"""Put a trained run into the package, in half precision, with a card that names data, command and scores.

    python tools/package_model.py runs/packaged-zh-en zh-en results/zh-en recipes/zh-en.card.md

The card is the given text; ``{validation}`` and ``{test}`` in it are filled from the run and from the evidence.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from regard import directory

ROOT = Path(__file__).resolve().parent.parent


def main(run: str, name: str, evidence: str, card: str) -> None:
    loaded = directory.load(run)
    rows = json.loads((Path(evidence) / "evidence.json").read_text("utf-8"))["hypotheses"]
    test = "\n".join(
        f"| {row['reference']} | {row['bleu']:.2f} | {row['chrf']:.2f} | `{row['bleu_signature']}` |" for row in rows
    )
    validation = next(line for line in loaded.card.splitlines() if "(kept)" in line)
    text = Path(card).read_text("utf-8").replace("{test}", test).replace("{validation}", validation)
    target = ROOT / "src" / "regard" / "packaged" / name
    directory.save(
        target,
        loaded.model,
        loaded.options,
        loaded.settings,
        loaded.tokenizer,
        None if loaded.target_tokenizer is loaded.tokenizer else loaded.target_tokenizer,
        card=text,
        dtype=torch.float16,
    )
    size = sum(path.stat().st_size for path in target.iterdir())
    print(f"{target.relative_to(ROOT)}: {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main(*sys.argv[1:])
