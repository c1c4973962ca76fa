"""One update: what is divided by what, what is dropped when, and where the data stands."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from regard.accel import thresholds
from regard.config import Config
from regard.data.prepare import Prepared, prepare
from regard.data.random_streams import seed_stream
from regard.models import registry
from regard.tasks import task_named
from regard.training.feed import Feed, Item
from regard.training.optimizer import optimizer_tensors
from regard.training.preflight import run_largest
from regard.training.step import Trainer


def feed_of(config: Config, folder: Path) -> tuple[Feed, Prepared]:
    task = task_named(config.task)
    prepared = prepare(config, folder / "data", task.columns(config.data))
    return Feed(config, task.examples(config, prepared, task.settings(config, prepared))), prepared


def trainer_of(config: Config, prepared: Prepared) -> Trainer:
    seed_stream(config.seed, "weights")
    return Trainer(config, registry.options_from(config.model).build(prepared.tokenizer.size), torch.device("cpu"))


def ids_of(item: Item) -> list[list[list[int]]]:
    return [batch.labels.tolist() for batch in item.batches]


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_feed_goes_on_from_any_update(tiny: Callable[..., Config], tmp_path: Path, dropout: float) -> None:
    feed, _ = feed_of(tiny(**{"data.subword_dropout": dropout, "training.accumulate": 2}), tmp_path)
    whole = list(itertools.islice(feed.items(0, 0), 12))
    assert {item.epoch for item in whole} >= {0, 1}
    for start in (1, len(feed.plan(0)) - 1, len(feed.plan(0)), 8):
        first = whole[start - 1]
        resumed = list(itertools.islice(feed.items(first.epoch, first.number + 1), 12 - start))
        assert [(i.epoch, i.number, ids_of(i)) for i in resumed] == [
            (i.epoch, i.number, ids_of(i)) for i in whole[start:]
        ]


def test_subword_dropout_cuts_anew_and_counts_what_it_cut(tiny: Callable[..., Config], tmp_path: Path) -> None:
    feed, prepared = feed_of(tiny(**{"data.subword_dropout": 0.5}), tmp_path)
    first, second = (feed.examples.batch(np.arange(5), epoch) for epoch in (0, 1))
    assert first.labels.tolist() != second.labels.tolist()
    assert first.target_tokens == int((first.labels >= 0).sum())
    for row, index in zip(first.labels, range(5), strict=True):
        text = prepared.target_tokenizer.decode([i for i in row.tolist() if i > 3])
        assert text == prepared.train.text(1, index)
    item = next(feed.items(0, 0))
    assert item.target_tokens == sum(int((batch.labels >= 0).sum()) for batch in item.batches) > item.planned_tokens


def test_accumulated_gradients_are_those_of_one_batch(tiny: Callable[..., Config], tmp_path: Path) -> None:
    config = tiny(**{"model.dropout": 0.0})
    feed, prepared = feed_of(config, tmp_path)
    trainer = trainer_of(config, prepared)
    together = feed.examples.batch(np.arange(24), 0)
    parts = [feed.examples.batch(part, 0) for part in np.split(np.arange(24), [3, 11])]  # parts of very different size
    trainer.gradients(Item.of(0, 0, [], [together]), 1)
    whole = [parameter.grad.clone() for parameter in trainer.parameters]
    sums = trainer.gradients(Item.of(0, 0, [], parts), 1)
    for parameter, wanted in zip(trainer.parameters, whole, strict=True):
        torch.testing.assert_close(parameter.grad, wanted, rtol=1e-4, atol=1e-7)
    assert int(sums[2]) == together.target_tokens


@pytest.fixture
def three_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Enough for three parts of a small batch."""
    monkeypatch.setattr(thresholds, "THREAD_POSITIONS", 20)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(threads)


def test_a_batch_on_several_cores_has_the_gradients_of_the_whole(
    tiny: Callable[..., Config], tmp_path: Path, three_threads: None
) -> None:
    feed, prepared = feed_of(tiny(**{"model.dropout": 0.0, "training.label_smoothing": 0.1}), tmp_path)
    trainer = trainer_of(feed.config, prepared)
    batch = feed.examples.batch(np.arange(23), 0)
    parts = trainer.parallel.parts(batch)
    assert len(parts) == 3
    assert sum(part.target_tokens for part in parts) == batch.target_tokens
    item = Item.of(0, 0, [], [batch])
    sums = trainer.gradients(item, 1)
    found = [parameter.grad.clone() for parameter in trainer.parameters]
    assert torch.get_num_threads() == 3
    trainer.parallel.most = 1
    torch.testing.assert_close(sums, trainer.gradients(item, 1))
    for parameter, mine in zip(trainer.parameters, found, strict=True):
        torch.testing.assert_close(mine, parameter.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("attention_dropout", [0.0, 0.3])
def test_what_several_cores_drop_is_the_same_each_time(
    tiny: Callable[..., Config], tmp_path: Path, three_threads: None, attention_dropout: float
) -> None:
    feed, prepared = feed_of(tiny(**{"model.dropout": 0.5, "model.attention_dropout": attention_dropout}), tmp_path)
    trainer = trainer_of(feed.config, prepared)
    batches = [feed.examples.batch(np.arange(40), 0), feed.examples.batch(np.arange(40, 60), 0)]
    item = Item.of(0, 0, [], batches)

    def gradients(step: int) -> list[torch.Tensor]:
        trainer.gradients(item, step)
        return [parameter.grad.clone() for parameter in trainer.parameters]

    first = gradients(7)
    for _ in range(5):
        torch.rand(100)  # what others draw does not matter
        assert all(map(torch.equal, gradients(7), first))
    assert not all(map(torch.equal, gradients(8), first))


def test_what_is_dropped_depends_on_the_update_alone(tiny: Callable[..., Config], tmp_path: Path) -> None:
    config = tiny(**{"model.dropout": 0.5})
    feed, prepared = feed_of(config, tmp_path)
    trainer = trainer_of(config, prepared)
    item = next(feed.items(0, 0))
    first = trainer.gradients(item, 7)
    torch.rand(100)  # what others draw does not matter
    assert torch.equal(trainer.gradients(item, 7), first)
    assert not torch.equal(trainer.gradients(item, 8), first)


def test_the_rehearsal_leaves_no_trace(tiny: Callable[..., Config], tmp_path: Path) -> None:
    config = tiny(**{"training.weight_decay": 0.1, "training.ema": 0.9})
    feed, prepared = feed_of(config, tmp_path)
    trainer = trainer_of(config, prepared)
    before = {name: tensor.clone() for name, tensor in trainer.weights().items()}
    state = torch.get_rng_state()
    estimate = run_largest(trainer, feed, 0, fresh=True)
    assert torch.equal(torch.get_rng_state(), state)
    for name, tensor in trainer.weights().items():
        assert torch.equal(before[name].view(torch.int32), tensor.view(torch.int32))
    assert optimizer_tensors(trainer.optimizer, trainer.model) == {}
    assert all(parameter.grad is None for parameter in trainer.parameters)
    assert estimate.bytes > 1e8 and estimate.seconds_per_update > 0
    assert estimate.sentences * max(estimate.source_length, estimate.target_length) <= 200
    assert any("peak memory about" in line for line in estimate.lines(config.training))

    item = next(feed.items(0, 0))
    trainer.read(trainer.start_update(item, 1), 1)
    moments = {name: t.clone() for name, t in optimizer_tensors(trainer.optimizer, trainer.model).items()}
    run_largest(trainer, feed, 0, fresh=False)  # on a run that goes on the moments are left alone
    after = optimizer_tensors(trainer.optimizer, trainer.model)
    assert moments and all(torch.equal(moments[name], after[name]) for name in moments)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, []),
        ({"model.positions": "rotary"}, []),
        ({"model.positions": "relative_bias"}, ["a bias on packed rows", "gradient of a bias on CPU"]),
        ({"model.attention_dropout": 0.1}, ["attention dropout on CPU"]),
        ({"model.window": 4}, ["a mask on packed rows"]),
    ],
)
def test_slow_attention_is_said_before_the_first_update(
    options: dict[str, Any], said: list[str], tiny: Callable[..., Config], tmp_path: Path
) -> None:
    config = tiny(**options)
    feed, prepared = feed_of(config, tmp_path)
    lines = run_largest(trainer_of(config, prepared), feed, 0, fresh=True).lines(config.training)
    found = [line for line in lines if line.startswith("attention takes a slower way")]
    assert found == [f"attention takes a slower way: {reason}" for reason in said]


def test_bf16_keeps_fp32_weights(tiny: Callable[..., Config], tmp_path: Path) -> None:
    config = tiny(**{"training.precision": "bf16"})
    feed, prepared = feed_of(config, tmp_path)
    trainer = trainer_of(config, prepared)
    statistics = trainer.read(trainer.start_update(next(feed.items(0, 0)), 1), 1)
    assert not statistics.skipped and 2 < statistics.nll / statistics.target_tokens < 9
    assert all(parameter.dtype == torch.float32 for parameter in trainer.parameters)
