"""The cost of one greedy decoding step, and its lower limit: python benchmarks/decode_step.py [--preset base]

Milliseconds on one thread, by the sentences that are decoded together, of

- model: a step of the model and the ranking of its logits, as decoding calls them without native kernels;
- prepared: the same of the prepared model in fp32, bf16 and int8 (accel/prepared.py);
- bare: the model's operators in one function on plain tensors, no modules around them (its ids are the model's);
- compiled: that function through torch.compile, dynamic shapes, where a C++ compiler is found;
- products: its products with weights alone;
- limit: their operations by the matrix rate.

14 source tokens, 8 target tokens so far, random weights. Writes results/decode-step-PRESET. Run it when nothing else
runs; compiling takes two minutes.
"""

from __future__ import annotations

import argparse
import math
import shutil
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import evidence
import torch
from contest import seconds
from torch import Tensor
from torch.nn import functional as F

from regard.accel.prepared import prepare
from regard.decoding.topk import chunk_of, topk_tokens
from regard.machine import devices
from regard.machine.memory import keep_memory
from regard.models.transformer import PRESETS, Transformer
from regard.nn.positions import sinusoids
from regard.nn.sequences import Tokens
from regard.training.rates import matrix_rate

VOCABULARY, SOURCE, SO_FAR, EOS = 8000, 14, 8, 3
PRECISIONS = ("fp32", "bf16", "int8")
ROWS = (1, 8, 32, 88, 200, 350)
Pair = tuple[Tensor, Tensor]


class Bare:
    """The decoder's weights and caches as plain tensors, post-norm."""

    def __init__(self, model: Any, state: Any) -> None:
        self.table, self.scale = model.output_table()[0], math.sqrt(model.width)
        self.heads = model.options.heads
        self.position = sinusoids(SO_FAR + 1, model.width, model.options.positions.interleaved)[SO_FAR].float()
        self.layers: list[tuple[Pair, ...]] = []
        for layer in model.decoder.layers:
            own, cross, inner = layer.self_attention, layer.cross_attention, layer.feedforward
            parts = [
                own.query_key_value, own.output, layer.self_attention_residual.norm, cross.query, cross.output,
                layer.cross_attention_residual.norm, inner.input, inner.output, layer.feedforward_residual.norm,
            ]  # fmt: skip
            self.layers.append(tuple((part.weight, part.bias) for part in parts))
        flat = partial(torch.flatten, start_dim=0, end_dim=1)
        self.memory = [(flat(key), flat(value)) for key, value in state.memory]
        self.caches = [(flat(cache.key).clone(), flat(cache.value).clone()) for cache in state.caches]

    def step(self, ids: Tensor, top: int) -> tuple[Tensor, Tensor]:
        """Newest tokens [B] → the next ones and their log-probabilities, [B] each."""
        x = F.embedding(ids, self.table) * self.scale + self.position
        batch, width = x.shape
        many, size = batch * self.heads, width // self.heads
        for layer, (keys, values), (memory_keys, memory_values) in zip(
            self.layers, self.caches, self.memory, strict=True
        ):
            joined, output, norm, query, cross_output, cross_norm, inner, outer, last_norm = layer
            q, k, v = F.linear(x, *joined).view(batch, 3, self.heads, size).unbind(1)
            keys[:, top], values[:, top] = k.reshape(many, size), v.reshape(many, size)
            mixed = attend(q.reshape(many, 1, size), keys[:, : top + 1], values[:, : top + 1])
            x = F.layer_norm(x + F.linear(mixed.view(batch, width), *output), (width,), *norm)
            mixed = attend(F.linear(x, *query).view(many, 1, size), memory_keys, memory_values)
            x = F.layer_norm(x + F.linear(mixed.view(batch, width), *cross_output), (width,), *cross_norm)
            x = F.layer_norm(x + F.linear(F.linear(x, *inner).relu_(), *outer), (width,), *last_norm)
        logits = x @ self.table.t()
        best, token = logits.max(1)
        return token, best - logits.logsumexp(1)

    def products(self, rows: int) -> Callable[[], None]:
        """The step's products with weights, on inputs of their own."""
        inputs = {weight.shape[1]: torch.randn(rows, weight.shape[1]) for weight, _ in self.matrices()}

        def run() -> None:
            for weight, bias in self.matrices():
                F.linear(inputs[weight.shape[1]], weight, bias)

        return run

    def operations(self, rows: int) -> float:
        return 2.0 * rows * sum(weight.numel() for weight, _ in self.matrices())

    def matrices(self) -> list[tuple[Tensor, Tensor | None]]:
        """The weights and biases of the products; norms have vectors."""
        return [*(pair for layer in self.layers for pair in layer if pair[0].dim() == 2), (self.table, None)]


def attend(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    scores = torch.bmm(query, keys.transpose(1, 2)) / math.sqrt(query.shape[2])
    return torch.bmm(scores.softmax(-1), values)


def milliseconds(work: Callable[[], Any]) -> float:
    return 1000 * seconds(work, budget=0.3)


def decoded(model: Any, rows: int) -> tuple[Any, Tensor]:
    """A state after SO_FAR tokens, and the next ones [B, 1]."""
    lengths = torch.full((rows,), SOURCE)
    memory = model.encode(Tokens(torch.randint(4, VOCABULARY, (rows, SOURCE)), lengths))
    state = model.start(memory, 1, 4 * SO_FAR)
    model.step(torch.randint(4, VOCABULARY, (rows, SO_FAR)), state, torch.full((rows,), SO_FAR))
    return state, torch.randint(4, VOCABULARY, (rows, 1))


def prepared(options: Transformer, precision: str) -> Any:
    torch.manual_seed(0)
    return prepare(options.build(VOCABULARY).eval(), devices.dtype(precision))


def measure(preset: str, rows: int, compiled: Callable[..., Any] | None, rate: float) -> list[Any]:
    torch.manual_seed(0)
    options: Transformer = PRESETS[preset]
    model = options.build(VOCABULARY).eval()
    state, tokens = decoded(model, rows)
    bare = Bare(model, state)

    def step(model: Any, state: Any) -> Any:
        hidden = model.step(tokens, state, None)
        state.slots.top, state.slots.longest = SO_FAR, SO_FAR  # the same step again
        state.slots.position.fill_(SO_FAR)
        return topk_tokens(model, hidden, 1, EOS, chunk=chunk_of(model))

    ids = tokens[:, 0].clone()
    found = step(model, state).tokens[:, 0, 0]
    assert torch.equal(found, bare.step(ids, SO_FAR)[0]), "the bare step is not the model's"
    times = [milliseconds(lambda: step(model, state))]
    for name in PRECISIONS:
        narrow = prepared(options, name)
        times.append(milliseconds(partial(step, narrow, decoded(narrow, rows)[0])))
    times.append(milliseconds(lambda: bare.step(ids, SO_FAR)))
    if compiled is not None:
        times.append(milliseconds(lambda: compiled(bare, ids, SO_FAR)))
    times += [milliseconds(bare.products(rows)), 1000 * bare.operations(rows) / rate]
    print(rows, *(f"{t:.2f}" for t in times), sep="\t", file=sys.stderr, flush=True)
    return [rows, *(round(t, 2) for t in times)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="tiny", choices=sorted(PRESETS))
    given = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()
    compiled = None
    if shutil.which("g++") or shutil.which("clang++"):
        compiled = torch.compile(Bare.step, dynamic=True)
    rate = matrix_rate(torch.device("cpu"))
    with torch.inference_mode():
        rows = [measure(given.preset, count, compiled, rate) for count in ROWS]
    prepared_models = [f"prepared, {name}" for name in PRECISIONS]
    names = [
        "model",
        *prepared_models,
        "bare operators",
        *(["compiled"] if compiled is not None else []),
        "products",
        "limit",
    ]
    evidence.write(
        f"decode-step-{given.preset}",
        command=f"python benchmarks/decode_step.py --preset {given.preset}",
        figures={"matrix_rate": rate},
        table={"columns": ["sentences", *(f"{name}, ms" for name in names)], "rows": rows},
        note=f"{VOCABULARY} subwords, {SOURCE} source tokens, {SO_FAR} target tokens so far, one thread",
    )


if __name__ == "__main__":
    main()
