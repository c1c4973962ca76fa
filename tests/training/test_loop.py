"""Whole runs of a tiny model: what is left in the run directory, and that going on is as if nothing had happened."""

import math
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from regard import directory
from regard.config import Config
from regard.errors import RegardError
from regard.training import checkpoint, session, snapshots
from regard.training.average_run import average_run, steps_of
from regard.training.loop import train
from regard.training.metrics import METRICS, TIMING, read_rows
from regard.training.session import Session
from regard.training.step import Trainer

Make = Callable[..., Config]
EVERYTHING = {
    "model.dropout": 0.2,
    "data.subword_dropout": 0.1,
    "training.accumulate": 2,
    "training.ema": 0.9,
    "training.clip_norm": 1.0,
}


def final(run: Path) -> dict[str, str]:
    """Hashes of all that two equal runs share."""
    last = checkpoint.steps(run)[-1]
    return {**checkpoint.digests(checkpoint.folder(run, last)), METRICS: (run / METRICS).read_text()}


def test_a_run_leaves_a_model_that_translates(tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "WORTH_MEASURING", 0.0)
    size = {"data.vocabulary": 420, "model.width": 32, "model.order": "pre", "training.batch_tokens": 400}
    config = tiny(**size, **{"training.steps": 150, "training.validate_every": 50, "training.save_every": 50})
    heard: list[str] = []
    result = train(config, tmp_path / "run", on_event=lambda kind, values: heard.append(kind))
    assert (result.step, result.stopped, result.skipped) == (150, "steps", 0)
    assert result.scores["bleu"] > 10  # word by word; chance is 0

    loaded = directory.load(tmp_path / "run")
    assert loaded.settings.source == "de" and "BLEU" in loaded.card and result.scores["bleu_signature"] in loaded.card
    rows = read_rows(tmp_path / "run" / METRICS)
    losses = [row["loss"] for row in rows if row["kind"] == "train"]
    assert losses[0] > 5 and losses[-1] < 3
    assert [row["step"] for row in rows if row["kind"] == "validation"] == [50, 100, 150]
    assert {row["name"] for row in rows if row["kind"] == "choice"} >= {"average of the last 2"}
    assert not any("second" in key for row in rows for key in row)
    timing = read_rows(tmp_path / "run" / TIMING, "train")
    assert timing[-1]["tokens_per_second"] > 0 and 0 < timing[-1]["share"] < 1
    assert heard[0] == "preflight" and heard.count("validation") == 3
    assert checkpoint.steps(tmp_path / "run") == [100, 150]
    assert len(list((tmp_path / "run" / "snapshots").iterdir())) <= 4


@pytest.mark.parametrize("at", [1, 5, 6, 8])
def test_a_run_that_is_stopped_and_goes_on_is_the_same_run(tiny: Make, tmp_path: Path, at: int) -> None:
    config = tiny(**EVERYTHING)
    train(config, tmp_path / "whole")

    class Killed(Exception):
        pass

    def kill(kind: str, values: Mapping[str, Any]) -> None:
        if kind in ("train", "validation") and values["step"] >= at:
            raise Killed

    with pytest.raises(Killed):
        train(config, tmp_path / "killed", on_event=kill)
    result = train(config, tmp_path / "killed", resume=True)
    assert result.step == 12
    assert final(tmp_path / "killed") == final(tmp_path / "whole")
    weights = (tmp_path / "killed" / directory.WEIGHTS).read_bytes()
    assert weights == (tmp_path / "whole" / directory.WEIGHTS).read_bytes()


def test_ctrl_c_saves_and_says_how_to_go_on(tiny: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny(**EVERYTHING)
    train(config, tmp_path / "whole")

    def press(kind: str, values: Mapping[str, Any]) -> None:
        if kind == "train" and values["step"] == 6:
            os.kill(os.getpid(), signal.SIGINT)

    result = train(config, tmp_path / "run", on_event=press)
    assert (result.stopped, result.step, result.chosen) == ("interrupted", 6, "")
    assert f"regard train --resume {tmp_path / 'run'}" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert train(config, tmp_path / "run", resume=True).stopped == "steps"
    assert final(tmp_path / "run") == final(tmp_path / "whole")


def test_ctrl_c_in_a_validation_does_it_again_later(
    tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(**EVERYTHING)
    train(config, tmp_path / "whole")
    validate = Session.validate

    def pressed(session: Session) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        validate(session)

    monkeypatch.setattr(Session, "validate", pressed)
    assert train(config, tmp_path / "run").step == 5
    monkeypatch.undo()
    train(config, tmp_path / "run", resume=True)
    assert final(tmp_path / "run") == final(tmp_path / "whole")


def test_a_finished_run_can_be_given_more_steps(tiny: Make, tmp_path: Path) -> None:
    train(tiny(), tmp_path / "run")
    assert train(tiny(), tmp_path / "run", resume=True).step == 12
    assert train(tiny(**{"training.steps": 15}), tmp_path / "run", resume=True).step == 15
    with pytest.raises(RegardError, match=r"training.batch_tokens = 300: the run was begun with 200"):
        train(tiny(**{"training.batch_tokens": 300}), tmp_path / "run", resume=True)
    with pytest.raises(RegardError, match=r"model.window = 4: the run was begun without it"):
        train(tiny(**{"model.window": 4}), tmp_path / "run", resume=True)


def test_an_existing_run_is_refused(tiny: Make, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "notes.txt").write_text("mine")
    train(tiny(), run)
    before = (run / METRICS).read_bytes()
    with pytest.raises(RegardError, match=r"already holds a run.*--resume.*--force"):
        train(tiny(), run)
    assert (run / METRICS).read_bytes() == before
    train(tiny(**{"seed": 2}), run, force=True)
    assert (run / METRICS).read_bytes() != before and (run / "notes.txt").read_text() == "mine"
    with pytest.raises(RegardError, match=r"no run to go on with"):
        train(tiny(), tmp_path / "other", resume=True)


def test_other_data_is_another_run(tiny: Make, tmp_path: Path) -> None:
    train(tiny(), tmp_path / "run")
    corpus = tmp_path / "corpus" / "train.de"
    corpus.write_text(corpus.read_text().replace("eins", "zwei"))
    with pytest.raises(RegardError, match="the training data is not what the run was begun with"):
        train(tiny(), tmp_path / "run", resume=True)


def break_updates(monkeypatch: pytest.MonkeyPatch, steps: range, value: float) -> None:
    """Put a number that is not finite into a gradient of these updates."""
    gradients = Trainer.gradients

    def broken(trainer: Trainer, item: Any, step: int) -> torch.Tensor:
        sums = gradients(trainer, item, step)
        if step in steps:
            trainer.parameters[0].grad.view(-1)[3] = value  # type: ignore[union-attr]
        return sums

    monkeypatch.setattr(Trainer, "gradients", broken)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_step_that_is_not_finite_is_skipped_and_named(
    tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], value: float
) -> None:
    break_updates(monkeypatch, range(7, 9), value)
    result = train(tiny(), tmp_path / "run")
    assert result.skipped == 2 and result.step == 12
    rows = read_rows(tmp_path / "run" / METRICS, "skipped")
    assert [row["step"] for row in rows] == [7, 8] and "train.de:" in rows[0]["examples"][0]
    err = capsys.readouterr().err
    assert "update 7 skipped" in err and f"{tmp_path / 'corpus' / 'train.de'}:" in err
    assert checkpoint.load(checkpoint.folder(tmp_path / "run", 12)).position["skipped"] == 2


def test_a_run_without_hope_stops(tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    break_updates(monkeypatch, range(3, 100), math.nan)
    with pytest.raises(RegardError, match=r"stopped at update 12: 10 updates in a row"):
        train(tiny(**{"training.steps": 50}), tmp_path / "run")
    kept = checkpoint.load(checkpoint.folder(tmp_path / "run", 12))
    assert kept.position["skipped_in_a_row"] == 10
    before = checkpoint.load(checkpoint.folder(tmp_path / "run", 8))
    assert all(torch.equal(kept.weights[name], before.weights[name]) for name in kept.weights)
    assert all(torch.equal(kept.optimizer[name], before.optimizer[name]) for name in kept.optimizer)


def test_patience_and_minutes_end_a_run(tiny: Make, tmp_path: Path) -> None:
    still = {"training.learning_rate": 1e-12, "training.validate_every": 2, "training.steps": 500}
    patient = train(tiny(**still, **{"training.patience": 2, "training.metric": "loss"}), tmp_path / "patience")
    assert patient.stopped == "patience" and patient.step < 100

    config = tiny(**{"training.minutes": 0.05, "training.steps": 10**6, "training.validate_every": 10**5})
    start = time.monotonic()
    limited = train(config, tmp_path / "minutes")
    assert limited.stopped == "minutes" and time.monotonic() - start >= 3
    # The time is spent: going on ends at once, with the same weights.
    again = train(config, tmp_path / "minutes", resume=True)
    assert again.stopped == "minutes" and again.step == limited.step


def test_a_run_can_start_from_a_model(tiny: Make, tmp_path: Path) -> None:
    train(tiny(**{"training.steps": 60}), tmp_path / "first")
    config = tiny(**{"training.init": str(tmp_path / "first"), "training.steps": 1, "training.warmup_steps": 1000})
    result = train(config, tmp_path / "second")
    first = directory.load(tmp_path / "first")
    second = directory.load(tmp_path / "second")
    assert first.tokenizer.fingerprint == second.tokenizer.fingerprint
    assert result.scores["loss"] < 4
    assert second.options == first.options


def test_what_a_run_starts_from_may_be_changed_where_its_weights_fit(tiny: Make, tmp_path: Path) -> None:
    base = tiny(**{"training.steps": 2})
    train(base, tmp_path / "first")
    init = replace(base.training, init=str(tmp_path / "first"))
    train(replace(base, model={**base.model, "dropout": 0.25}, training=init), tmp_path / "second")
    assert directory.load(tmp_path / "second").options.dropout == 0.25
    with pytest.raises(RegardError, match=r"training.init = .*first: \[model\] makes '.*' \[.*\], and there it is \["):
        train(replace(base, model={**base.model, "width": 32}, training=init), tmp_path / "third")
    other = {"architecture": "rnn", "width": 16}
    with pytest.raises(RegardError, match=r"' missing, and there it is \[.*\]; leave out of \[model\]"):
        train(replace(base, model=other, training=init), tmp_path / "fourth")


@pytest.mark.parametrize("architecture", ["rnn"])
def test_other_architectures_train(tiny: Make, tmp_path: Path, architecture: str) -> None:
    base = tiny()
    model = {"architecture": architecture, "width": 16}
    config = Config(seed=1, data=base.data, model=model, training=base.training, decoding=base.decoding)
    assert train(config, tmp_path / "run").step == 12


def test_wrong_requests_fail_before_anything_is_read(tiny: Make, tmp_path: Path) -> None:
    with pytest.raises(RegardError, match="device 'cuda:9' cannot be used"):
        train(tiny(), tmp_path / "run", device="cuda:9")
    with pytest.raises(RegardError, match="device 'abacus' cannot be used"):
        train(tiny(), tmp_path / "run", device="abacus")
    (tmp_path / "file").write_text("")
    with pytest.raises(RegardError, match="found a file"):
        train(tiny(), tmp_path / "file")
    assert not (tmp_path / "run").exists()


def test_averages_of_a_run_that_is_finished_or_not(tiny: Make, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(tiny(**{"training.metric": "loss"}), run)
    assert steps_of(run, last=2) == [10, 12] and len(steps_of(run, best=2)) == 2
    average_run(run, tmp_path / "two", [10, 12])
    mean = directory.load(tmp_path / "two")
    one, other = (snapshots.read_snapshot(run, step) for step in (10, 12))
    for name, tensor in directory.stored(mean.model).items():
        torch.testing.assert_close(tensor, (one[name] + other[name]) / 2)
    assert "10, 12" in mean.card and "not this model's" in mean.card

    for name in ("config.json", "model.safetensors", "text.json", "tokenizer.json", "README.md", "manifest.json"):
        (run / name).unlink()
    average_run(run, tmp_path / "unfinished", [10, 12])
    assert (tmp_path / "unfinished" / directory.WEIGHTS).read_bytes() == (
        tmp_path / "two" / directory.WEIGHTS
    ).read_bytes()
    with pytest.raises(RegardError, match=r"has the weights of 3 of the last 5 validations"):
        steps_of(run, last=5)
    with pytest.raises(RegardError, match="is there already"):
        average_run(run, tmp_path / "two", [10, 12])
    with pytest.raises(RegardError, match=r"is no run: it has no run.toml"):
        steps_of(tmp_path, last=1)
