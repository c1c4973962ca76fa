"""nanoGPT's model on its own batches, timed: python nanogpt.py PATH/TO/nanoGPT TRAIN.txt VALID.txt SETTING.json

The model and the optimizer are those of its model.py; the loop is the one that its train.py runs on a CPU, without its
evaluations. The last line is a JSON object: seconds of all updates, and the mean loss over the whole validation text in
blocks.
"""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import torch


def rate(step: int, setting: dict[str, Any]) -> float:
    """get_lr of train.py: a linear warm-up, then a cosine down to a tenth."""
    peak, least, warmup, steps = setting["learning_rate"], setting["learning_rate"] / 10, 100, setting["steps"]
    if step < warmup:
        return float(peak * (step + 1) / (warmup + 1))
    return float(least + 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) * (peak - least))


def main() -> None:
    folder, train, valid, setting = (
        sys.argv[1],
        *map(Path, sys.argv[2:4]),
        json.loads(Path(sys.argv[4]).read_text("utf-8")),
    )
    sys.path.insert(0, folder)
    from model import GPT, GPTConfig  # type: ignore[import-not-found]

    texts = [path.read_text("utf-8") for path in (train, valid)]
    alphabet = {letter: number for number, letter in enumerate(sorted(set("".join(texts))))}
    train_ids, valid_ids = (torch.tensor([alphabet[letter] for letter in text]) for text in texts)
    torch.manual_seed(setting["seed"])
    block = setting["block"]
    model = GPT(
        GPTConfig(
            block_size=block, vocab_size=len(alphabet), n_layer=setting["layers"], n_head=setting["heads"],
            n_embd=setting["width"], dropout=0.0, bias=False,
        )
    )  # fmt: skip
    optimizer = model.configure_optimizers(0.1, setting["learning_rate"], (0.9, 0.99), "cpu")
    start = time.perf_counter()
    for step in range(setting["steps"]):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, setting)
        places = torch.randint(len(train_ids) - block, (setting["batch"],))
        x = torch.stack([train_ids[place : place + block] for place in places])
        y = torch.stack([train_ids[place + 1 : place + 1 + block] for place in places])
        _, loss = model(x, y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    seconds = time.perf_counter() - start
    model.eval()
    total, count = 0.0, len(valid_ids) - 1
    with torch.no_grad():
        for first in range(0, count, block):
            y = valid_ids[None, first + 1 : first + block + 1]
            total += float(model(valid_ids[None, first : first + block][:, : y.shape[1]], y)[1]) * y.shape[1]
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(json.dumps({"seconds": seconds, "loss": total / count, "parameters": parameters, "characters": count}))


if __name__ == "__main__":
    main()
