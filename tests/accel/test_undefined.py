"""The native kernels on NaN and infinity: NaN stays NaN, and nothing happens that C leaves undefined."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from regard.accel import processors, shared_library

# Reads floats; writes exp_of of each, the bytes of all as one quantized row, and the scale of that row.
PROGRAM = """
#include "products.h"
#include "loss.h"
#include "ranking.h"
#include <stdio.h>
int main(void)
{
    static float x[4096], found[4096];
    static uint8_t bytes[4096];
    long count = fread(x, sizeof *x, 4096, stdin);
    for (long k = 0; k < count; k++)
        found[k] = exp_of(x[k]);
    float scale = quantize(x, count, bytes);
    fwrite(found, sizeof *found, count, stdout);
    fwrite(bytes, 1, count, stdout);
    fwrite(&scale, sizeof scale, 1, stdout);
    static float scores[4096];
    memcpy(scores, x, sizeof scores);
    float values[4], ends[1];
    int64_t tokens[4], label = 1, end = 1;
    double sums[2];
    topk(scores, 1, count, 4, &end, 1, 0, 0, values, tokens, ends);
    topk(scores, 1, count, 4, 0, 0, 0, 0, values, tokens, 0);
    memcpy(scores, x, sizeof scores);
    softmax_gradient(scores, 1, count, &label, 1, 0, sums);
    return 0;
}
"""
HOSTILE = [float("nan"), float("-inf"), float("inf"), -3.4e38, 3.4e38, -1e30, -88.0, -87.0, 1e-45, -1e-45, 0.0, -0.0]


def run(folder: Path, x: np.ndarray, *flags: str) -> tuple[np.ndarray, np.ndarray, float]:
    compiler = processors.compiler()
    if compiler is None:
        pytest.skip("no compiler")
    (folder / "main.c").write_text(PROGRAM, "utf-8")
    plain = [flag for flag in processors.FLAGS if flag not in ("-fPIC", "-shared")]
    command = [compiler, *plain, *processors.HERE, *flags, f"-I{shared_library.SOURCES}", "main.c", "-o", "main", "-lm"]
    made = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if made.returncode and flags:
        pytest.skip(f"the compiler has no sanitizer: {made.stderr[-200:]}")
    assert made.returncode == 0, made.stderr
    done = subprocess.run([folder / "main"], input=x.tobytes(), capture_output=True)
    assert done.returncode == 0 and b"runtime error" not in done.stderr, done.stderr.decode()
    size = len(x)
    exps = np.frombuffer(done.stdout[: 4 * size], np.float32)
    scale = np.frombuffer(done.stdout[5 * size :], np.float32)[0]
    return exps, np.frombuffer(done.stdout[4 * size : 5 * size], np.uint8), float(scale)


def test_exp_is_pytorchs_and_nan_is_not_lost(tmp_path: Path) -> None:
    x = np.concatenate((np.linspace(-87, 0, 4000), HOSTILE)).astype(np.float32)
    exps, _, scale = run(tmp_path, x)
    expected = torch.exp(torch.from_numpy(x)).numpy()
    good = x <= 0
    assert np.allclose(exps[good], expected[good], rtol=2.5e-7, atol=2e-38)
    assert np.isnan(exps[np.isnan(x)]).all() and not np.isfinite(exps[x == np.inf]).any() and np.isnan(scale)
    _, bytes_of, scale = run(tmp_path, x[good & np.isfinite(x) & (x > -100)])
    assert scale == pytest.approx(88 / 127) and bytes_of[0] == 128 - round(87 / scale) and bytes_of[-1] == 128


def test_nothing_undefined_is_done_with_what_is_no_number(tmp_path: Path) -> None:
    draw = np.random.default_rng(1).integers(0, 2**32, 4000, dtype=np.uint32).view(np.float32)
    x = np.concatenate((np.array(HOSTILE, np.float32), draw))
    sanitizer = "-fsanitize=undefined,float-cast-overflow,shift"
    run(tmp_path, x, sanitizer, "-fno-sanitize-recover=all", "-O1")
