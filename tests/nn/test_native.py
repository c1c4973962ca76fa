"""The compiled loops compute what PyTorch's operators do, each row by itself; without a compiler nothing is missing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from regard.nn import int8, native
from regard.nn.attention import Core, attend
from regard.nn.layout import Layout

LOOPS = native.library()
compiled = pytest.mark.skipif(LOOPS is None, reason="there is no C compiler here")
torch.set_num_threads(1)
sizes = st.integers(1, 70)


@compiled
@torch.inference_mode()
@given(rows=st.integers(0, 9), width=sizes, seed=st.integers(0, 99), scale=st.sampled_from([0.0, 1e-6, 1.0, 1e6]))
def test_rows_are_cut_to_bytes_as_by_operators(rows: int, width: int, seed: int, scale: float) -> None:
    assert LOOPS
    torch.manual_seed(seed)
    x = torch.randn(rows, width) * scale
    (cut, step), (expected, steps) = LOOPS.quantized(x, int8.LEAST), int8.quantized(x)
    torch.testing.assert_close(step, steps, rtol=1e-6, atol=0)
    # What lies half way between two bytes goes up here and to the even one there.
    assert bool(((cut.int() - expected.int()).abs() <= 1).all())
    assert bool((((cut.float() - 128) * step[:, None] - x).abs() <= 0.501 * step[:, None]).all())


@compiled
@torch.inference_mode()
def test_a_number_that_is_not_finite_is_not_lost() -> None:
    assert LOOPS
    for wrong in (torch.nan, torch.inf):
        x = torch.randn(3, 40)
        x[1, 7] = wrong
        step = LOOPS.quantized(x, int8.LEAST)[1]
        assert step.isnan().tolist() == [False, True, False]
        assert not bool(LOOPS.log_sum_exp(x)[1].isfinite())
        assert not bool(LOOPS.normalized(x, nn.LayerNorm(40))[1].isfinite().any())


@compiled
@pytest.mark.skipif(not int8.available(), reason="PyTorch has no integer products here")
@torch.inference_mode()
@given(rows=st.integers(1, 40), inputs=sizes, outputs=sizes, seed=st.integers(0, 99))
def test_few_rows_are_multiplied_to_the_same_bits_as_many(rows: int, inputs: int, outputs: int, seed: int) -> None:
    torch.manual_seed(seed)
    linear, x = nn.Linear(inputs, outputs), torch.randn(rows, inputs)
    layer = int8.Int8Linear(linear.weight, linear.bias)
    few = layer(x)
    before, int8.FEW = int8.FEW, 0
    try:
        assert torch.equal(layer(x), few)
    finally:
        int8.FEW = before


@compiled
@torch.inference_mode()
@given(
    rows=st.integers(0, 9), width=st.integers(1, 300), seed=st.integers(0, 99), scale=st.sampled_from([0.1, 5.0, 80])
)
def test_log_sum_exp_and_layer_norm(rows: int, width: int, seed: int, scale: float) -> None:
    assert LOOPS
    torch.manual_seed(seed)
    x = torch.randn(rows, width) * scale
    # fp32 has 2⁻²⁴; of a sum of 300 a few times that is lost, and as much of exp.
    torch.testing.assert_close(LOOPS.log_sum_exp(x).double(), x.double().logsumexp(1), rtol=1e-6, atol=2e-6)
    norm = nn.LayerNorm(width)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    torch.testing.assert_close(LOOPS.normalized(x, norm), norm(x), rtol=1e-4, atol=1e-4)
    for row in range(rows):
        assert torch.equal(LOOPS.log_sum_exp(x[row : row + 1]), LOOPS.log_sum_exp(x)[row : row + 1])
        assert torch.equal(LOOPS.normalized(x[row : row + 1], norm), LOOPS.normalized(x, norm)[row : row + 1])


def heads(batch: int, count: int, tokens: int, width: int) -> Tensor:
    """[B, H, T, K] as a projection leaves it: tokens before heads in memory, other things beside."""
    return torch.randn(batch, tokens, count + 1, width)[:, :, 1:].transpose(1, 2)


@compiled
@torch.inference_mode()
@given(
    batch=st.integers(0, 3), groups=st.integers(1, 3), group=st.integers(1, 2), queries=st.integers(1, 7),
    keys=st.integers(1, 40), width=st.sampled_from([16, 32, 48, 64]), seed=st.integers(0, 99),
    masks=st.sampled_from(["none", "padding", "hypotheses", "bias"]), halves=st.booleans(),
)  # fmt: skip
def test_attention_is_the_equation(
    batch: int, groups: int, group: int, queries: int, keys: int, width: int, seed: int, masks: str, halves: bool
) -> None:
    assert LOOPS
    torch.manual_seed(seed)
    query, key, value = (
        heads(batch, n, t, width) for n, t in ((groups * group, queries), (groups, keys), (groups, keys))
    )
    if halves:
        key, value = key.bfloat16(), value.bfloat16()
    shape = {"padding": (batch, 1, 1, keys), "hypotheses": (batch, 1, queries, keys)}.get(
        masks, (batch, groups * group, queries, keys)
    )
    mask = None if masks == "none" else torch.randn(shape) if masks == "bias" else torch.zeros(shape)
    if mask is not None:
        mask.masked_fill_(torch.rand(shape) < 0.4, -torch.inf)  # now and then everything that a query has
    got = LOOPS.attend(query, key, value, mask, 0.3)
    allowed = None if mask is None else (mask > -torch.inf).expand(batch, groups * group, queries, keys)
    bias = None if mask is None else mask.masked_fill(mask == -torch.inf, 0)
    expected = attend(query, key.float(), value.float(), Layout(mask=allowed), bias=bias, scale=0.3)
    # Sums of up to 64 and 40 products in another order.
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    for row in range(batch):
        alone = None if mask is None else mask[row : row + 1]
        one = slice(row, row + 1)
        assert torch.equal(LOOPS.attend(query[one], key[one], value[one], alone, 0.3), got[one])


@compiled
@torch.inference_mode()
@pytest.mark.parametrize(("queries", "width"), [(native.FEW + 1, 32), (3, 24)])
def test_what_the_loops_do_not_do_goes_the_usual_way(queries: int, width: int) -> None:
    assert LOOPS
    torch.manual_seed(0)
    query, key, value = (heads(2, 2, queries, width) for _ in range(3))
    core = Core()
    found = native.NativeCore(core, LOOPS)(query, key.bfloat16(), value.bfloat16(), Layout(causal=True))
    expected = core(query, key.bfloat16().float(), value.bfloat16().float(), Layout(causal=True))
    torch.testing.assert_close(found, expected)


def looked_for(environment: dict[str, str]) -> Any:
    """What a fresh process finds of the library."""
    code = "from regard.nn import native; print(native.library() is not None)"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    assert not done.stderr
    return done.stdout.strip() == "True"


@compiled
def test_it_is_compiled_once_into_the_cache_folder(tmp_path: Path) -> None:
    assert looked_for({"XDG_CACHE_HOME": str(tmp_path)})
    (found,) = (tmp_path / "regard").iterdir()
    made = found.stat().st_mtime_ns
    assert looked_for({"XDG_CACHE_HOME": str(tmp_path)})
    assert [(path, path.stat().st_mtime_ns) for path in (tmp_path / "regard").iterdir()] == [(found, made)]


@pytest.mark.parametrize("lack", ["no compiler", "a compiler that fails", "no cache folder", "a damaged library"])
def test_without_it_nothing_is_said_and_nothing_is_missing(lack: str, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    environment = {"XDG_CACHE_HOME": str(cache)}
    if lack == "no compiler":
        environment |= {"PATH": str(tmp_path), "CC": "nothing-of-that-name"}
    elif lack == "a compiler that fails":
        environment["CC"] = "false"
    elif lack == "no cache folder":
        cache.write_text("a file stands in its place")
    else:
        looked_for(environment)
        for path in (cache / "regard").glob("*.so"):
            path.write_bytes(b"\x7fELF and no more")
    assert not looked_for(environment)
    assert not list(tmp_path.rglob("tmp*")), "what was begun is cleared away"
