"""The library that multiplies a model's shapes fastest on this CPU, and the ways in which a query attends to few keys.

    python benchmarks/products.py            # results/products, results/one-query; half a minute, one thread

The first table is GFLOP/s of x [rows, K] times a matrix [N, K] with its bias, through what PyTorch brings: its own
linear layer (MKL where PyTorch was built with it), oneDNN, with weights packed beforehand FBGEMM in fp16 and in int8
and oneDNN in fp32 and bf16; and regard's native kernels. Activations come and go in fp32: each call quantizes or casts
them where it has to. 1 and 8 rows are a step of a few sentences, 88 one of greedy decoding, 350 one of a beam, 4,096 a
training batch. The second is microseconds of the ways in which one query of each head can attend to S keys: 88
sentences, 4 heads, 32 wide. Run it when nothing else runs.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import evidence
import torch
from contest import seconds
from torch import Tensor
from torch.nn import functional as F

from regard.accel import int8, native
from regard.accel.linear import available

SHAPES = [
    (rows, inner, outer)
    for inner, outer in ((128, 384), (128, 128), (256, 128), (128, 5000), (512, 1536), (2048, 512))
    for rows in (1, 8, 88, 350, 4096)
]
KEYS = (4, 8, 12, 13, 16, 24, 40)
SENTENCES, HEADS, WIDTH = 88, 4, 32


def libraries(x: Tensor, weight: Tensor, bias: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Every way to x Wᵀ + b that this build of PyTorch has."""
    found: dict[str, Callable[[], Tensor]] = {"PyTorch's linear layer": lambda: F.linear(x, weight, bias)}
    onednn = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if onednn is not None:
        found["oneDNN"] = lambda: onednn(x, weight, bias, "none", [], "")
    if "fbgemm" in torch.backends.quantized.supported_engines:
        torch.backends.quantized.engine = "fbgemm"
        half = torch.ops.quantized.linear_prepack_fp16(weight, bias)
        found["FBGEMM, fp16 weights"] = lambda: torch.ops.quantized.linear_dynamic_fp16(x, half)
        scales = (weight.abs().amax(1) / 127).double()
        rounded = torch.quantize_per_channel(weight, scales, torch.zeros(len(weight), dtype=torch.long), 0, torch.qint8)
        bytes_ = torch.ops.quantized.linear_prepack(rounded, bias)
        found["FBGEMM, int8"] = lambda: torch.ops.quantized.linear_dynamic(x, bytes_, True)
    types = {"fp32": torch.float32, "bf16": torch.bfloat16}
    for name, dtype in types.items():
        if onednn is not None and available(dtype):
            table = torch.ops.mkldnn._reorder_linear_weight(weight.to(dtype), None)
            found[f"oneDNN, packed, {name}"] = partial(_by_onednn, x, table, bias.to(dtype), dtype)
    kernels = native.library()
    for name, dtype in types.items():
        if kernels and kernels.multiplies[dtype]:
            found[f"regard, {name}"] = partial(native.Matrix(kernels, weight.to(dtype), bias), x)
    if int8.available():
        found["regard, int8"] = partial(int8.Int8Linear(weight, bias), x)
    return found


def _by_onednn(x: Tensor, table: Tensor, bias: Tensor, dtype: torch.dtype) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x.to(dtype), table, bias, "none", [], "")
    return product.to(x.dtype)


def attentions(keys: int) -> dict[str, Callable[[], Tensor]]:
    """Ways to the mixture of values, queries [B · H, 1, K]; keys and values lie in a longer cache."""
    room = keys + 8
    query = torch.randn(SENTENCES * HEADS, 1, WIDTH)
    key, value = (torch.randn(SENTENCES * HEADS, room, WIDTH)[:, :keys] for _ in range(2))
    heads = [x.view(SENTENCES, HEADS, -1, WIDTH) for x in (query, key, value)]

    def weights() -> Tensor:
        return torch.bmm(query, key.transpose(1, 2)).softmax(-1)

    return {
        "two bmm": lambda: torch.bmm(weights(), value),
        "bmm, then a sum over keys": lambda: (weights().transpose(1, 2) * value).sum(1),
        "two sums": lambda: ((query * key).sum(2, keepdim=True).softmax(1) * value).sum(1),
        "scaled_dot_product_attention": lambda: F.scaled_dot_product_attention(*heads),
        "einsum": lambda: torch.einsum("bqs,bsk->bqk", torch.einsum("bqk,bsk->bqs", query, key).softmax(-1), value),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="see that everything runs; nothing is written")
    budget = 0.0001 if parser.parse_args().quick else 0.03
    warnings.filterwarnings("ignore", message=".*quantize.*deprecated")
    torch.set_num_threads(1)
    torch.manual_seed(1)
    tables: dict[str, list[dict[str, Any]]] = {"products": [], "one-query": []}
    with torch.inference_mode():
        for rows, inner, outer in SHAPES:
            ways = libraries(torch.randn(rows, inner), torch.randn(outer, inner) / inner**0.5, torch.randn(outer))
            rates = {name: round(2e-9 * rows * inner * outer / seconds(way, budget), 1) for name, way in ways.items()}
            tables["products"].append({"rows × K × N": f"{rows:,} × {inner} × {outer:,}", **rates})
        for keys in KEYS:
            ways = attentions(keys)
            times = {name: round(1e6 * seconds(way, budget)) for name, way in ways.items()}
            tables["one-query"].append({"keys": keys, **times})
    for name, found in tables.items():
        columns, rows = list(found[0]), [list(row.values()) for row in found]
        print("\n".join("\t".join(map(str, row)) for row in (columns, *rows)))
        if budget > 0.001:
            evidence.write(
                name,
                command="python benchmarks/products.py",
                seeds=[1],
                figures={"rows": found, "threads": 1},
                table={"columns": columns, "rows": rows},
            )


if __name__ == "__main__":
    main()
