from pathlib import Path
from typing import Any

import pytest
import torch

from regard.errors import RegardError
from regard.training import snapshots
from regard.training.average import average, follow
from regard.training.finish import candidates
from regard.training.position import LogSums, RunPosition
from regard.training.step import Statistics


def test_averages_are_means_in_the_weights_own_type() -> None:
    sets = [
        {"a": torch.full((2,), float(n)), "h": torch.tensor([n], dtype=torch.float16), "i": torch.tensor(n)}
        for n in (1, 2, 6)
    ]
    mean = average(iter(sets))
    assert mean["a"].tolist() == [3.0, 3.0] and mean["a"].dtype == torch.float32
    assert mean["h"].dtype == torch.float16 and mean["i"].item() == 6
    assert torch.equal(average([sets[0]])["a"], sets[0]["a"])


@pytest.mark.parametrize("other", [{"b": torch.zeros(2)}, {"a": torch.zeros(3)}])
def test_weights_of_different_models_are_refused(other: dict[str, torch.Tensor]) -> None:
    with pytest.raises(RegardError, match=r"'[ab]'"):
        average([{"a": torch.zeros(2)}, other])
    with pytest.raises(RegardError, match="none"):
        average([])


def test_the_moving_average_forgets_its_start() -> None:
    ema, weights = {"a": torch.full((3,), 100.0)}, {"a": torch.ones(3)}
    for step in range(1, 60):
        follow(ema, weights, 0.9, step)
    assert torch.allclose(ema["a"], torch.ones(3), atol=1.0)
    before = ema["a"].clone()
    follow(ema, {"a": torch.full((3,), 11.0)}, 0.9, 1000)
    torch.testing.assert_close(ema["a"], before * 0.9 + 1.1)


SCORES = [(10, 1.0), (20, 5.0), (30, 5.0), (40, 2.0), (50, 3.0)]


def test_the_last_and_the_best() -> None:
    assert snapshots.last(SCORES, 2) == [40, 50]
    assert snapshots.best(SCORES, 3) == [20, 30, 50]  # of equals the earlier first
    assert candidates(SCORES, 3) == {
        "update 20, the best": [20],
        "average of the last 3": [30, 40, 50],
        "average of the best 3": [20, 30, 50],
    }
    assert list(candidates(SCORES[:1], 5).values()) == [[10]]
    assert list(candidates(SCORES, 1).values()) == [[20]]


def test_snapshots_live_as_long_as_a_checkpoint_needs_them(tmp_path: Path) -> None:
    wanted = snapshots.needed(SCORES, average=1, keep=1, checkpoints=[30, 50])
    assert wanted == {30, 20, 50}
    for step, _ in SCORES:
        snapshots.write_snapshot(tmp_path, step, {"w": torch.full((2,), float(step))})
    snapshots.write_snapshot(tmp_path, 20, {"w": torch.full((2,), 21.0)})  # a killed run's is replaced
    snapshots.prune(tmp_path, wanted)
    assert sorted(path.name for path in (tmp_path / "snapshots").iterdir()) == ["step-20", "step-30", "step-50"]
    assert snapshots.read_snapshot(tmp_path, 20)["w"].tolist() == [21.0, 21.0]
    damaged = tmp_path / "snapshots" / "step-30" / "weights.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(RegardError, match=r"weights.safetensors: damaged"):
        snapshots.read_snapshot(tmp_path, 30)


def test_a_position_comes_back_from_json_as_it_was() -> None:
    position = RunPosition(corpus="abc", scores=[(5, -1.25), (10, -1.0), (15, -1.5)])
    position.add(Statistics(3.3, 1.1, 7, 0.3, False), epoch=2, update=4)
    position.add(Statistics(float("nan"), 1.1, 7, 0.3, True), epoch=2, update=5)
    assert (position.step, position.epoch, position.update, position.target_tokens) == (2, 2, 6, 14)
    assert position.sums == LogSums(3.3, 1.1, 7, 0.3, 1) and position.skipped == position.skipped_in_a_row == 1
    assert position.best() == (10, -1.0) and position.without_improvement() == 1
    assert RunPosition.read(position.plain()) == position
    position.add(Statistics(1.0, 1.0, 7, 0.3, False), epoch=2, update=6)
    assert position.skipped_in_a_row == 0 and position.skipped == 1
    with pytest.raises(RegardError, match="'more'"):
        RunPosition.read({**position.plain(), "more": 1})


def test_kept_weights_of_another_model_are_one_line() -> None:
    model: Any = torch.nn.Linear(2, 2, bias=False)
    model.ties = {}
    for weights in ({"weight": torch.zeros(3, 3)}, {"weights": torch.zeros(2, 2)}, {}):
        with pytest.raises(RegardError, match="the kept weights are not those of this run's model") as caught:
            snapshots.put(model, weights)
        assert "\n" not in str(caught.value)


def test_pruning_leaves_alone_what_is_no_snapshot(tmp_path: Path) -> None:
    (tmp_path / "diary").mkdir()
    (tmp_path / "diary" / "today").write_text("dear diary", "utf-8")
    (tmp_path / snapshots.SNAPSHOTS / "step-mine").mkdir(parents=True)
    (tmp_path / snapshots.SNAPSHOTS / "step-7").symlink_to(tmp_path / "diary")
    snapshots.prune(tmp_path, {1})
    assert [path.name for path in (tmp_path / snapshots.SNAPSHOTS).iterdir()] == ["step-mine"]
    assert (tmp_path / "diary" / "today").read_text("utf-8") == "dear diary"
