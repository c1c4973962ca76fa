"""Checkpoints: read back bit for bit, refused when damaged, and the newest whole one is found."""

from __future__ import annotations

import ast
import math
import random
import shutil
from pathlib import Path

import pytest
import torch

from regard import files
from regard.errors import RegardError
from regard.training import checkpoint
from regard.training.state import TrainingState

HERE = checkpoint.environment(torch.device("cpu"))


def state(step: int, *, ema: bool = True) -> TrainingState:
    torch.manual_seed(step)
    weights = {"a.weight": torch.randn(3, 4), "a.bias": torch.randn(4)}
    return TrainingState(
        step=step,
        weights=weights,
        optimizer={f"exp_avg.{name}": torch.randn_like(tensor) for name, tensor in weights.items()}
        | {"step.a.weight": torch.tensor(float(step))},
        ema={name: tensor / 3 for name, tensor in weights.items()} if ema else {},
        position={"step": step, "sums": {"loss": 0.1 + 0.2}, "scores": [[1, -math.inf], [2, 1 / 3]], "corpus": "abc"},
        clock={"seconds": 1.5 * step},
    )


def same(one: TrainingState, other: TrainingState) -> bool:
    if (one.step, one.position, one.clock) != (other.step, other.position, other.clock):
        return False
    return all(
        getattr(one, name).keys() == getattr(other, name).keys()
        and all(torch.equal(tensor, getattr(other, name)[key]) for key, tensor in getattr(one, name).items())
        for name in checkpoint.TENSORS
    )


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for step in (10, 20, 30):
        checkpoint.save(tmp_path, state(step), HERE)
    return tmp_path


@pytest.mark.parametrize("ema", [True, False])
def test_read_back_bit_for_bit(tmp_path: Path, ema: bool) -> None:
    place = checkpoint.save(tmp_path, state(7, ema=ema), HERE)
    assert same(checkpoint.load(place), state(7, ema=ema))
    assert (place / "ema.safetensors").exists() == ema
    assert {path.suffix for path in place.iterdir()} == {".safetensors", ".json"}


def test_equal_states_have_equal_digests(tmp_path: Path) -> None:
    one = checkpoint.digests(checkpoint.save(tmp_path / "one", state(7), HERE))
    later = state(7)
    later.clock = {"seconds": 99.0}
    assert one == checkpoint.digests(checkpoint.save(tmp_path / "other", later, HERE))
    for change in ("weights", "optimizer", "ema", "position"):
        changed = state(7)
        if change == "position":
            changed.position["corpus"] = "abd"
        else:
            tensor = next(iter(getattr(changed, change).values()))
            tensor.view(-1)[0] = torch.nextafter(tensor.view(-1)[0], torch.tensor(9.0))
        assert one != checkpoint.digests(checkpoint.save(tmp_path / change, changed, HERE)), change


def test_latest_and_rotation(run: Path) -> None:
    said: list[str] = []
    found = checkpoint.latest(run, said.append)
    assert found is not None and same(found, state(30)) and not said
    assert checkpoint.rotate(run, 2) == [20, 30] == checkpoint.steps(run)
    assert checkpoint.latest(run.parent / "new", said.append) is None


def test_falls_back_to_the_newest_whole_one_and_says_so(run: Path) -> None:
    path = checkpoint.folder(run, 30) / "optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    (checkpoint.folder(run, 20) / "manifest.json").unlink()
    said: list[str] = []
    found = checkpoint.latest(run, said.append)
    assert found is not None and found.step == 10
    assert "step-30 cannot be used, going on from step-10" in said[0] and "optimizer.safetensors: damaged" in said[0]
    assert "step-20 cannot be used" in said[1] and "manifest.json: no such file" in said[1]
    # A damaged one is not among the newest, and its name is free again.
    assert checkpoint.steps(run) == [10]
    checkpoint.save(run, state(20), HERE)
    assert checkpoint.rotate(run, 1) == [20]
    assert checkpoint.latest(run, said.append).step == 20  # type: ignore[union-attr]


def test_no_whole_one_is_an_error(run: Path) -> None:
    for step in (10, 20, 30):
        (checkpoint.folder(run, step) / "weights.safetensors").write_bytes(b"")
    with pytest.raises(
        RegardError, match=r"no checkpoint is whole; the newest: .*step-30/weights.safetensors: damaged"
    ):
        checkpoint.latest(run, lambda line: None)


def test_a_damaged_one_is_replaced_in_place(run: Path) -> None:
    (checkpoint.folder(run, 30) / "weights.safetensors").write_bytes(b"")
    checkpoint.save(run, state(30), HERE)
    assert same(checkpoint.load(checkpoint.folder(run, 30)), state(30))


def test_every_flip_truncation_and_swap_is_found(run: Path) -> None:
    """300 bit flips and truncations at random, every pair of files swapped, every file taken from another step."""
    generator = random.Random(3)
    place = checkpoint.folder(run, 30)
    paths = sorted(place.iterdir())
    for _ in range(300):
        path = generator.choice(paths)
        data = path.read_bytes()
        broken = bytearray(data)
        if generator.random() < 0.5:
            bit = generator.randrange(len(data) * 8)
            broken[bit // 8] ^= 1 << bit % 8
        else:
            broken = broken[: generator.randrange(len(data) - 1)]
        path.write_bytes(broken)
        try:
            loaded = checkpoint.load(place)
        except RegardError as error:
            assert "step-30" in str(error)
        else:  # white space of the manifest itself, which says the same
            assert path.name == "manifest.json" and same(loaded, state(30)), path
        path.write_bytes(data)
    for path in paths:
        data = path.read_bytes()
        for other in [*paths, checkpoint.folder(run, 20) / path.name]:
            if other.read_bytes() != data:
                path.write_bytes(other.read_bytes())
                with pytest.raises(RegardError, match="step-30"):
                    checkpoint.load(place)
        path.write_bytes(data)
    assert same(checkpoint.load(place), state(30))


def test_a_whole_folder_under_another_name(run: Path) -> None:
    shutil.rmtree(checkpoint.folder(run, 30))
    shutil.copytree(checkpoint.folder(run, 20), checkpoint.folder(run, 30))
    with pytest.raises(RegardError, match="is of step 20, but stands in the folder of step 30"):
        checkpoint.load(checkpoint.folder(run, 30))


def test_not_finite(tmp_path: Path) -> None:
    broken = state(5)
    broken.optimizer["exp_avg.a.bias"][0] = math.nan
    place = checkpoint.save(tmp_path, broken, HERE)
    with pytest.raises(
        RegardError, match=r"optimizer\.safetensors: 'exp_avg\.a\.bias' holds numbers that are not finite"
    ):
        checkpoint.load(place)


def test_another_machine_is_said(run: Path) -> None:
    assert checkpoint.not_exact(run, 30, HERE) == ""
    said = checkpoint.not_exact(run, 30, {**HERE, "threads": "64"})
    assert said.startswith("not bit-exact: threads was") and said.endswith("is '64'")


def test_litter_is_removed(run: Path) -> None:
    (run / "checkpoints" / ".step-40.partial").mkdir()
    (run / "checkpoints" / ".step-40.partial" / ".tmpabc").write_text("x")
    checkpoint.latest(run, lambda line: None)
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"step-10", "step-20", "step-30"}


def test_nothing_is_unpickled() -> None:
    """No source file imports a way to unpickle, calls PyTorch's, or runs text as code."""
    modules = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
    calls = {"torch.load", "torch.save", "eval", "exec"}
    for path in Path(files.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not modules & {name.partition(".")[0] for name in names}, path
            if isinstance(node, ast.Call):
                assert ast.unparse(node.func) not in calls, f"{path}:{node.lineno}"
                assert all(keyword.arg != "allow_pickle" for keyword in node.keywords), f"{path}:{node.lineno}"
