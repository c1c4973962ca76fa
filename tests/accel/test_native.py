"""The native kernels compute what PyTorch's operators do, each row by itself; without a compiler nothing is missing."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kinds import KERNELS, compiled, on_processors
from torch import Tensor

from regard.accel import int8, native, processors, shared_library, structures

torch.set_num_threads(1)
sizes = st.integers(1, 150)


def made(kernels: native.Native, kind: str, inputs: int, outputs: int) -> tuple[native.Matrix, Tensor, Tensor]:
    """A prepacked linear layer, its weights as they are rounded, and its bias."""
    weight, bias = torch.randn(outputs, inputs), torch.randn(outputs)
    if kind == "int8":
        scales = weight.abs().amax(1) / 63  # the limit where two products share 16 bits
        rounded = (weight / scales[:, None]).round().to(torch.int8)
        return native.Matrix(kernels, rounded, bias, scales), rounded.float() * scales[:, None], bias
    weight = weight.bfloat16() if kind == "bf16" else weight
    return native.Matrix(kernels, weight, bias), weight.float(), bias


@on_processors
@pytest.mark.parametrize("kind", ["fp32", "bf16", "int8"])
@torch.inference_mode()
@given(rows=st.integers(0, 30), inputs=sizes, outputs=sizes, seed=st.integers(0, 99))
def test_a_product_is_a_product_and_a_row_does_not_see_the_others(
    kernels: native.Native, kind: str, rows: int, inputs: int, outputs: int, seed: int
) -> None:
    if not kernels.multiplies[{"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}[kind]]:
        pytest.skip("this processor has no instructions for it")
    torch.manual_seed(seed)
    matrix, weight, bias = made(kernels, kind, inputs, outputs)
    x = torch.randn(rows, inputs)
    rounded = x
    if kind == "bf16":
        rounded = x.bfloat16().float()
    elif kind == "int8":
        # As in int8.py: ties go to the even byte.
        scale = x.abs().amax(1, keepdim=True).clamp(min=int8.LEAST) / 127
        rounded = (x * (127 / (scale * 127))).round() * scale
    expected = (rounded.double() @ weight.double().T + bias).float()
    got = matrix(x)
    # Each addition in fp32 loses up to 2⁻²⁴ of its result; where x / scale is nearly a tie, a byte may be off by one.
    tolerance = 1e-5 * (rounded.abs() @ weight.abs().T + 1)
    if kind == "int8" and rows:
        tolerance = tolerance + scale * weight.abs().amax(1)
    assert bool(((got - expected).abs() <= tolerance).all())
    for row in range(rows):
        assert torch.equal(matrix(x[row : row + 1])[0], got[row])


@on_processors
@torch.inference_mode()
def test_a_number_that_is_not_finite_is_not_lost(kernels: native.Native) -> None:
    for wrong in (torch.nan, torch.inf):
        for kind in ("fp32", "int8"):
            matrix, _, _ = made(kernels, kind, 40, 20)
            x = torch.randn(3, 40)
            x[1, 7] = wrong
            finite = matrix(x).isfinite().all(1)
            assert finite.tolist() == [True, False, True]
            values, _, ends = kernels.topk(matrix(x), 2, torch.tensor([0]), None)
            assert not bool(values[1, 0] > -torch.inf) and not bool(ends[1, 0].isfinite())


@on_processors
@torch.inference_mode()
@given(
    rows=st.integers(0, 40), width=st.integers(1, 600), k=st.integers(1, 7), seed=st.integers(0, 99),
    scale=st.sampled_from([0.0, 0.1, 5.0, 80.0]), hidden=st.integers(0, 3), several=st.integers(0, 3),
)  # fmt: skip
def test_the_top_k_of_scores_and_of_an_output_table(
    kernels: native.Native, rows: int, width: int, k: int, seed: int, scale: float, hidden: int, several: int
) -> None:
    torch.manual_seed(seed)
    k, end = min(k, width), torch.randint(width, (several,))
    away = torch.randint(width, (hidden,))
    matrix, _, _ = made(kernels, "fp32", 24, width)
    x = torch.randn(rows, 24) * scale
    scores = matrix(x)
    expected = scores.double().log_softmax(1)
    last = expected[:, end].clone()
    expected[:, away] = -torch.inf
    values, tokens, ends = kernels.topk_of_table(matrix, x, k, end, away if hidden else None)
    # fp32 has 2⁻²⁴, of the score from which the logarithm is subtracted too.
    tolerance = {"rtol": 1e-5, "atol": 1e-5 + 2**-22 * float(scores.abs().max()) if rows else 0.0}
    torch.testing.assert_close(ends.double(), last, **tolerance)
    torch.testing.assert_close(values.double(), expected.topk(k, 1).values, **tolerance)
    there = values > -torch.inf  # what is hidden has no place
    torch.testing.assert_close(values.double()[there], expected.gather(1, tokens)[there], **tolerance)
    assert bool((values <= 0).all() and (ends <= 0).all())
    again = kernels.topk(scores, k, end, away if hidden else None)
    for one, other in zip((values, tokens, ends), again, strict=True):
        assert torch.equal(one, other)


@compiled
@torch.inference_mode()
def test_of_equal_scores_the_first_is_first() -> None:
    assert KERNELS
    scores = torch.zeros(2, 300)
    scores[0, [40, 41, 250]] = 1.0
    assert KERNELS.topk(scores, 4, torch.tensor([0]), None)[1].tolist() == [[40, 41, 250, 0], [0, 1, 2, 3]]


@on_processors
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_keys_and_values_of_a_memory_end_where_its_sentences_do(kernels: native.Native, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    batch, tokens, groups, width = 3, 130, 2, 16
    matrix, _, _ = made(kernels, "fp32", 40, 2 * groups * width)
    memory, lengths = torch.randn(batch, tokens, 40), torch.tensor([130, 7, 97])
    keys, values = (torch.full((batch, groups, tokens, width), 9.0, dtype=dtype) for _ in range(2))
    kernels.project(matrix, memory, lengths, keys, values)
    parts = matrix(memory).view(batch, tokens, 2, groups, width).permute(2, 0, 3, 1, 4).to(dtype)
    for found, expected in zip((keys, values), parts, strict=True):
        for b, length in enumerate(lengths):
            assert torch.equal(found[b, :, :length], expected[b, :, :length])
            assert bool((found[b, :, length:] == 9).all())


def looked_for(environment: dict[str, str]) -> tuple[bool, bool, bool]:
    """What a fresh process finds of the library: whether it is there already, is there, and then is."""
    code = "from regard.accel import native; print(native.at_hand(), native.library() is not None, native.at_hand())"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    assert not done.stderr
    before, there, after = (word == "True" for word in done.stdout.split())
    return before, there, after


@compiled
def test_the_library_is_compiled_once_into_the_cache_folder(tmp_path: Path) -> None:
    assert looked_for({"XDG_CACHE_HOME": str(tmp_path)}) == (False, True, True)
    (found,) = (tmp_path / "regard").iterdir()
    made = found.stat().st_mtime_ns
    assert looked_for({"XDG_CACHE_HOME": str(tmp_path)}) == (True, True, True)
    assert [(path, path.stat().st_mtime_ns) for path in (tmp_path / "regard").iterdir()] == [(found, made)]


@pytest.mark.parametrize("lack", ["no compiler", "a compiler that fails"])
def test_without_a_library_nothing_is_said_and_nothing_is_missing(lack: str, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    environment = {"XDG_CACHE_HOME": str(cache)}
    if lack == "no compiler":
        environment |= {"PATH": str(tmp_path), "CC": "nothing-of-that-name"}
    else:
        environment["CC"] = "false"
    assert looked_for(environment) == (False, False, False)
    assert not list(tmp_path.rglob("tmp*")), "what was begun is cleared away"


def planted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Where a library is looked for in a cache, and what a stranger puts there: code that says that it ran."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    shared_library._path_of.cache_clear()
    compiler = processors.compiler()
    assert compiler is not None
    place = shared_library._path_of(compiler, processors.HERE)
    assert place is not None
    source, ran = folder / "evil.c", folder / "ran"
    source.write_text(
        f'#include <stdio.h>\n__attribute__((constructor)) static void run(void) {{ fclose(fopen("{ran}", "w")); }}\n',
        encoding="utf-8",
    )
    place.parent.mkdir(parents=True, mode=0o700)
    subprocess.run([compiler, "-shared", "-fPIC", source, "-o", place], check=True)
    return place, ran


@compiled
@pytest.mark.parametrize("whose", ["file of all", "folder of all", "file of a group", "another user", "a link"])
def test_code_that_another_user_may_have_put_into_the_cache_does_not_run(
    whose: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, ran = planted(tmp_path, monkeypatch)
    if whose == "file of all":
        place.chmod(0o666)
    elif whose == "folder of all":
        place.parent.chmod(0o777)
    elif whose == "file of a group":
        place.chmod(0o660)
    elif whose == "a link":
        place.rename(place.with_name("evil.so"))
        place.symlink_to(place.with_name("evil.so"))
    else:
        monkeypatch.setattr(shared_library.os, "geteuid", lambda: 12345)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kernels = shared_library.load(native.Native)
    assert kernels is not None, "compiled for this process alone"
    assert not ran.exists() and not shared_library.is_there()


@compiled
@pytest.mark.parametrize("content", [None, b"\x7fELF and no more"], ids=["no function of ours", "no library"])
def test_a_library_that_is_not_ours_is_one_line(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, _ = planted(tmp_path, monkeypatch)
    if content is not None:
        place.write_bytes(content)
    place.chmod(0o600)
    reason = "it lacks a function" if content is None else "it cannot be loaded"
    with pytest.warns(UserWarning, match=rf"native-.*\.so: not regard's native kernels: {reason}; delete it"):
        assert shared_library.load(native.Native) is not None


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library as these sources make it."""
    compiler = processors.compiler()
    if compiler is None:
        pytest.skip("there is no C compiler here")
    path = tmp_path_factory.mktemp("native") / "native.so"
    shared_library.compile_into(path, compiler)
    return path


def test_the_structures_of_c_and_of_python_are_laid_out_alike(fresh: Path) -> None:
    assert structures.mismatch(ctypes.CDLL(str(fresh))) is None


class Longer(ctypes.Structure):
    _fields_ = (*structures.Strided._fields_, ("spare", ctypes.c_long))


class Joined(ctypes.Structure):
    _fields_ = (*structures.Norm._fields_[:2], ("epsilon_and_centred", ctypes.c_long))


@pytest.mark.parametrize(
    ("name", "wrong", "difference"),
    [
        ("strided", Longer, "struct strided has 32 bytes in C, the last field at 24, and 40 in Python, spare at 32"),
        (
            "norm",
            Joined,
            "struct norm has 24 bytes in C, the last field at 20, and 24 in Python, epsilon_and_centred at 16",
        ),
        ("unheard_of", Longer, "struct unheard_of has -1 bytes in C"),
    ],
)
def test_a_library_with_other_structures_is_refused(
    name: str, wrong: type[ctypes.Structure], difference: str, fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(structures.MIRRORED, name, wrong)
    with pytest.raises(structures.StructureMismatch, match=difference):
        native.Native(ctypes.CDLL(str(fresh)))
    monkeypatch.setattr(shared_library, "_packaged", lambda: fresh)
    monkeypatch.setattr(processors, "compiler", lambda: None)
    with pytest.warns(UserWarning, match=f"not regard's native kernels: {difference}"):
        assert shared_library.load(native.Native) is None, "PyTorch's operators compute everything"


@compiled
def test_a_machine_without_proc_compiles_for_this_process_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing there tells which processor it is: no library of the wheel, and none of a cache that others share."""
    place, ran = planted(tmp_path, monkeypatch)
    place.chmod(0o600)
    real = Path.read_text

    def without_proc(path: Path, *more: Any, **options: Any) -> str:
        if path.is_relative_to("/proc"):
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return real(path, *more, **options)

    monkeypatch.setattr(Path, "read_text", without_proc)
    for remembered in (shared_library._instruction_sets, shared_library._path_of):
        remembered.cache_clear()
    try:
        assert shared_library.load(native.Native) is not None and not ran.exists()
        assert not shared_library.is_there()
    finally:
        for remembered in (shared_library._instruction_sets, shared_library._path_of):
            remembered.cache_clear()


@compiled
def test_a_relative_cache_folder_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    for base in ("cache", "./cache", ""):
        monkeypatch.setenv("XDG_CACHE_HOME", base)
        shared_library._path_of.cache_clear()
        place = shared_library._path_of("cc", processors.HERE)
        assert place is not None and place.is_relative_to(tmp_path / "home" / ".cache" / "regard")


@compiled
def test_without_a_cache_folder_the_library_is_this_processs_own(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file stands in its place", encoding="utf-8")
    assert looked_for({"XDG_CACHE_HOME": str(tmp_path / "cache")}) == (False, True, True)


@compiled
def test_the_cache_is_the_users_own_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        assert looked_for({"XDG_CACHE_HOME": str(tmp_path)}) == (False, True, True)
        assert looked_for({"XDG_CACHE_HOME": str(tmp_path)}) == (True, True, True)
    finally:
        os.umask(before)
    (found,) = (tmp_path / "regard").iterdir()
    assert found.parent.stat().st_mode & 0o077 == 0 and found.stat().st_mode & 0o077 == 0


@pytest.mark.slow
@compiled
def test_a_wheel_brings_them_for_machines_without_a_compiler(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=root, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.endswith("-py3-none-linux_x86_64.whl")
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    code = "from regard.accel import native; print(native.__file__, native.library() is not None)"
    alone = {"PYTHONPATH": str(site), "PATH": "", "CC": "", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | alone, capture_output=True, text=True, check=True
    )
    place, found = done.stdout.split()
    assert place.startswith(str(site)) and found == "True"
    assert not (tmp_path / "cache").exists()


@on_processors
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@given(rows=st.integers(0, 9), width=st.integers(1, 70), seed=st.integers(0, 99))
def test_sums_are_sums(kernels: native.Native, dtype: torch.dtype, rows: int, width: int, seed: int) -> None:
    torch.manual_seed(seed)
    x = torch.randn(rows, width).to(dtype)
    torch.testing.assert_close(kernels.column_sums(x), x.float().sum(0))
    sums, parts = torch.randn(rows, width), torch.randn(rows, width).bfloat16()
    expected = sums + parts
    kernels.add(sums, parts)
    assert torch.equal(sums, expected)


@on_processors
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@given(count=st.integers(1, 70), least=st.integers(-128, 128), seed=st.integers(0, 99))
def test_a_number_that_is_dropped_has_no_gradient(
    kernels: native.Native, dtype: torch.dtype, count: int, least: int, seed: int
) -> None:
    torch.manual_seed(seed)
    drawn = torch.randint(-128, 128, (count,), dtype=torch.int8)
    x, residual, gradient = torch.randn(count).to(dtype), torch.randn(count), torch.randn(count)
    mask = (drawn.int() >= least) * 1.25  # 128 is no int8
    dropping = structures.Dropping(drawn.data_ptr(), least, 1.25)
    torch.testing.assert_close(kernels.drop_and_add(dropping, x, residual), residual + x.float() * mask)
    torch.testing.assert_close(kernels.drop_backward(dropping, gradient, dtype), (gradient * mask).to(dtype))
