"""A plain training loop, timed: python loop.py sdpa|torch|marian DATA SHAPE.json. Its last line is a JSON object.

Batches hold sentences of similar length, at most `batch_tokens` padded tokens of the longer side, as regard's do. The
clock runs from the end of the warm-up updates to the end of the last; target tokens are subwords and end marks. On a
GPU it computes under autocast in `precision`, with Adam's fused update, and copies batches from pinned memory.
"""

from __future__ import annotations

import contextlib
import json
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import multi30k

PAD, BOS, EOS, IGNORED = 0, 2, 3, -100


def batches(folder: Path, budget: int, seed: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Endless epochs of (source, target input, labels), each [sentences, longest]."""
    source, target = multi30k.ids(folder, "train")
    size = [max(len(s), len(t)) + 1 for s, t in zip(source, target, strict=True)]
    chance = random.Random(seed)
    while True:
        order = sorted(range(len(source)), key=lambda i: (size[i], chance.random()))
        cut: list[list[int]] = [[]]
        for i in order:
            if (len(cut[-1]) + 1) * size[i] > budget:
                cut.append([])
            cut[-1].append(i)
        chance.shuffle(cut)
        for rows in cut:
            yield (
                padded([[*source[i], EOS] for i in rows], PAD),
                padded([[BOS, *target[i]] for i in rows], PAD),
                padded([[*target[i], EOS] for i in rows], IGNORED),
            )


def padded(rows: list[list[int]], padding: int) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [padding] * (longest - len(row)) for row in rows])


def build(kind: str, shape: dict[str, float]) -> nn.Module:
    width, layers, heads = int(shape["width"]), int(shape["layers"]), int(shape["heads"])
    feedforward, dropout, vocabulary = int(shape["feedforward"]), shape["dropout"], int(shape["vocabulary"])
    if kind == "sdpa":
        from sdpa import Transformer

        return Transformer(vocabulary, width, layers, heads, feedforward, dropout)
    if kind == "torch":
        from torchnn import Transformer

        return Transformer(vocabulary, width, layers, heads, feedforward, dropout)
    return marian(shape)


def marian(shape: dict[str, float]) -> nn.Module:
    """Hugging Face's model of this shape."""
    from transformers import MarianConfig, MarianMTModel

    config = MarianConfig(
        vocab_size=shape["vocabulary"], d_model=shape["width"], encoder_layers=shape["layers"],
        decoder_layers=shape["layers"], encoder_attention_heads=shape["heads"],
        decoder_attention_heads=shape["heads"], encoder_ffn_dim=shape["feedforward"],
        decoder_ffn_dim=shape["feedforward"], dropout=shape["dropout"], attention_dropout=0.0,
        activation_function="relu", scale_embedding=True, pad_token_id=PAD, eos_token_id=EOS,
        decoder_start_token_id=BOS, bos_token_id=BOS,
        max_position_embeddings=1024, share_encoder_decoder_embeddings=True, forced_eos_token_id=None,
    )  # fmt: skip
    return MarianMTModel(config)


def main() -> None:
    kind, folder, shape = sys.argv[1], Path(sys.argv[2]), json.loads(Path(sys.argv[3]).read_text(encoding="utf-8"))
    if shape["threads"]:
        torch.set_num_threads(shape["threads"])
    from regard.machine.memory import keep_memory

    keep_memory()
    torch.manual_seed(shape["seed"])
    device = torch.device(shape["device"])
    model = build(kind, shape).to(device).train()
    fused = device.type == "cuda"
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.9, 0.98), eps=1e-9, fused=fused)
    half = shape["precision"] == "bf16"
    autocast = torch.autocast(device.type, torch.bfloat16) if half else contextlib.nullcontext()
    stream = batches(folder, shape["batch_tokens"], shape["seed"])
    tokens, start = 0, 0.0
    for update in range(shape["warmup"] + shape["updates"]):
        if update == shape["warmup"]:
            tokens, start = 0, now(device)
        batch = next(stream)
        tokens += int((batch[2] != IGNORED).sum())
        if device.type == "cuda":
            batch = tuple(part.pin_memory().to(device, non_blocking=True) for part in batch)
        source, target, labels = batch
        with autocast:
            if kind == "marian":
                logits = model(
                    input_ids=source, attention_mask=(source != PAD).long(), decoder_input_ids=target, use_cache=False
                ).logits
            else:
                logits = model(source, target, PAD)
            loss = F.cross_entropy(
                logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, label_smoothing=shape["label_smoothing"]
            )
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    seconds = now(device) - start
    found = {"target_tokens": tokens, "seconds": seconds, "loss": loss.item()}
    found["parameters"] = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if device.type == "cuda":
        found["device_peak_mib"] = torch.cuda.max_memory_allocated() / 2**20
    print(json.dumps(found))


def now(device: torch.device) -> float:
    """The clock, once the device is idle."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main()
