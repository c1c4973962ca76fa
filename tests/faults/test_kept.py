"""No work is lost by starting anew, by moving a run or by stopping one early: what was there stays or comes back."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import tiny_run
from forkserver import Server

from regard.config import read_config
from regard.errors import RegardError
from regard.files import locked
from regard.training import checkpoint, previous
from regard.training.loop import train


class Done(NamedTuple):
    code: int
    said: str


Regard = Callable[..., Done]

SMALL = (
    "--set", "model.preset=tiny", "--set", "model.encoder_layers=1", "--set", "model.decoder_layers=1",
    "--set", "model.width=32", "--set", "model.heads=2", "--set", "model.feedforward=64", "--threads", "1",
)  # fmt: skip
QUICK = (*SMALL, "--steps", "4", "--save-every", "2", "--validate-every", "4")


@pytest.fixture(scope="module")
def regard(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Regard:
    """``regard("train", …, cwd=FOLDER)``: a process of its own, and what it said."""
    logs = tmp_path_factory.mktemp("logs")

    def run(*arguments: object, cwd: Path, **environment: str) -> Done:
        log = logs / f"{len(list(logs.iterdir()))}.log"
        code = server.wait(server.start([*map(str, arguments)], log, cwd, environment))
        return Done(code, log.read_text("utf-8"))

    return run


def refused(done: Done) -> str:
    """The one line of a user's error."""
    assert done.code == 2 and "Traceback" not in done.said, done.said
    return done.said.splitlines()[-1].removeprefix("regard: error: ")


def pairs(count: int, seed: int) -> list[tuple[str, str]]:
    """Sentences of a language of ten words, each of another target."""
    draw = random.Random(seed)
    words = "abcdefghij"
    return [(" ".join(draw.choices(words, k=4)) + f" {n}", " ".join(draw.choices(words, k=4))) for n in range(count)]


def write_corpus(folder: Path, name: str, rows: list[tuple[str, str]]) -> None:
    for language, side in (("zh", 0), ("en", 1)):
        (folder / f"{name}.{language}").write_text("".join(row[side] + "\n" for row in rows), "utf-8")


@pytest.fixture(scope="module")
def begun(regard: Regard, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two text files and a finished run of them, runs/a: only to be copied."""
    folder = tmp_path_factory.mktemp("begun")
    write_corpus(folder, "t", pairs(120, seed=4))
    done = regard("train", "t.zh", "t.en", "-o", "runs/a", *QUICK, cwd=folder)
    assert done.code == 0, done.said
    return folder


@pytest.fixture
def folder(begun: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(begun, tmp_path / "work"))


def contents(run: Path) -> dict[str, str]:
    """Every file of a run with its SHA-256, but for the shards, which are made anew from the corpus."""
    found = {}
    for path in sorted(run.rglob("*")):
        name = path.relative_to(run).as_posix()
        if path.is_file() and not name.startswith("data/") and not name.endswith(".lock"):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


# --- starting anew --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        ("--init", "typo"),
        ("--vocabulary", "262"),
        ("--valid", "nosuch"),
        ("--device", "cuda"),
        ("--batch-tokens", "1"),
        ("--set", "model.width=33"),
        ("--set", "data.max_length=1"),
        ("--precision", "bf61"),
    ],
    ids=lambda wrong: wrong[-1],
)
def test_a_refused_start_leaves_the_run_that_was_there(folder: Path, regard: Regard, wrong: tuple[str, ...]) -> None:
    run = folder / "runs" / "a"
    before = contents(run)
    refused(
        regard("train", "t.zh", "t.en", "-o", "runs/a", *QUICK, "--force", *wrong, cwd=folder, CUDA_VISIBLE_DEVICES="")
    )
    assert contents(run) == before
    assert regard("translate", "runs/a", "t.zh", cwd=folder).code == 0


def test_a_refused_first_start_is_not_in_the_way_of_the_next(folder: Path, regard: Regard) -> None:
    refused(regard("train", "t.zh", "t.en", "-o", "runs/b", *QUICK, "--vocabulary", "262", cwd=folder))
    assert regard("train", "t.zh", "t.en", "-o", "runs/b", *QUICK, cwd=folder).code == 0


def test_a_start_that_the_lock_refuses_leaves_the_first_ones_corpus(folder: Path, regard: Regard) -> None:
    run = folder / "runs" / "a"
    before = contents(run)
    write_corpus(folder, "other", pairs(90, seed=9))
    with locked(run / ".lock"):
        message = refused(regard("train", "other.zh", "other.en", "-o", "runs/a", *QUICK, "--force", cwd=folder))
    assert "another training is writing" in message
    assert contents(run) == before


def test_a_start_that_succeeds_replaces_the_run(folder: Path, regard: Regard) -> None:
    run = folder / "runs" / "a"
    before = contents(run)
    done = regard("train", "t.zh", "t.en", "-o", "runs/a", *QUICK, "--seed", "7", "--force", cwd=folder)
    assert done.code == 0, done.said
    after = contents(run)
    assert after.keys() - {name for name in after if "tensorboard" in name} == before.keys() - {
        name for name in before if "tensorboard" in name
    }
    assert after["model.safetensors"] != before["model.safetensors"]


def test_the_run_that_is_replaced_may_be_its_own_configuration(folder: Path, regard: Regard) -> None:
    done = regard("train", "runs/a/run.toml", "-o", "runs/a", "--seed", "7", "--force", cwd=folder)
    assert done.code == 0, done.said
    assert (folder / "runs" / "a" / "corpus" / "train.zh").exists()
    assert regard("train", "--resume", "runs/a", "--steps", "6", cwd=folder).code == 0


def test_a_run_cannot_start_from_the_model_that_it_replaces(folder: Path, regard: Regard) -> None:
    run = folder / "runs" / "a"
    before = contents(run)
    message = refused(
        regard("train", "t.zh", "t.en", "-o", "runs/a", *QUICK, "--init", "runs/a", "--force", cwd=folder)
    )
    assert "runs/a" in message and "another folder" in message
    assert contents(run) == before


def test_a_run_may_stand_beside_its_corpora(folder: Path, regard: Regard) -> None:
    before = [(folder / f"t.{language}").read_bytes() for language in ("zh", "en")]
    done = regard("train", "t.zh", "t.en", "-o", ".", *QUICK, cwd=folder)
    assert done.code == 0, done.said
    assert [(folder / f"t.{language}").read_bytes() for language in ("zh", "en")] == before
    done = regard("train", "--resume", folder, "--steps", "6", cwd=folder.parent)
    assert done.code == 0 and "going on from update 4" in done.said, done.said


def test_files_that_no_training_wrote_are_not_replaced(folder: Path, regard: Regard) -> None:
    place = folder / "mine"
    (place / "corpus").mkdir(parents=True)
    for language in ("zh", "en"):
        shutil.copy(folder / f"t.{language}", place / "corpus" / f"train.{language}")
    (place / "README.md").write_text("my notes", "utf-8")
    before = contents(place)
    named = ("train", "mine/corpus/train.zh", "mine/corpus/train.en", "-o", "mine", *QUICK)
    assert "already holds" in refused(regard(*named, cwd=folder))
    assert "no run or model" in refused(regard(*named, "--force", cwd=folder))
    (place / "README.md").unlink()
    before.pop("README.md")
    assert "which it would write over" in refused(regard(*named, cwd=folder))
    other = ("train", "t.zh", "t.en", "-o", "mine", *QUICK)
    assert "no training wrote it" in refused(regard(*other, cwd=folder))
    assert contents(place) == before


def test_a_folder_of_the_users_own_is_not_taken_over(folder: Path, regard: Regard) -> None:
    """A run that holds nothing out writes no corpus/, and leaves alone what has that name."""
    tiny_run.write(folder)
    mine = folder / "project" / "corpus" / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("my text", "utf-8")
    quick = ("--steps", "4", "--save-every", "2")
    assert regard("train", "config.toml", "-o", "project", *quick, cwd=folder).code == 0
    assert mine.read_text("utf-8") == "my text"
    assert regard("train", "config.toml", "-o", "project", *quick, "--force", cwd=folder).code == 0
    assert mine.read_text("utf-8") == "my text"
    beside = folder / "runs" / "a" / "corpus" / "notes.txt"
    beside.write_text("my notes", "utf-8")
    assert "no training wrote it" in refused(
        regard("train", "t.zh", "t.en", "-o", "runs/a", *QUICK, "--force", cwd=folder)
    )
    assert beside.read_text("utf-8") == "my notes"


@pytest.mark.parametrize("how", ["names outside", "a link", "a link that moves", "no names", "no JSON"])
def test_a_strangers_run_deletes_and_moves_nothing_elsewhere(folder: Path, regard: Regard, how: str) -> None:
    run, victim = folder / "runs" / "a", folder / "victim"
    victim.mkdir()
    for name in ("run.toml", "precious"):
        (victim / name).write_text("mine", "utf-8")
    aside = run / ".previous"
    text = {"names outside": '{"names": ["../../victim", "run.toml"]}', "no names": "{}", "no JSON": "{"}.get(how, "")
    if how.startswith("a link"):
        aside = run / (".previous.moving" if how.endswith("moves") else ".previous")
        aside.symlink_to(victim)
    else:
        aside.mkdir()
        (aside / "replaced.json").write_text(text, "utf-8")
    shutil.rmtree(run / "checkpoints")
    done = regard("train", "--resume", "runs/a", cwd=folder)
    assert "Traceback" not in done.said and done.code in (0, 2), done.said
    assert sorted(path.name for path in victim.iterdir()) == ["precious", "run.toml"]
    if how == "a link":
        assert not (run / "precious").exists()
        (run / "config.json").unlink(missing_ok=True)
        assert regard("translate", "runs/a", "t.zh", cwd=folder).code == 2


def test_a_checkpoint_is_not_lost_to_what_fails_right_after_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    run = folder / "runs" / "a"
    config = read_config(run / "run.toml", [f"data.train={folder}/t", f"data.valid={folder}/t"], seed=9)

    def fail(run: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(previous, "forget", fail)
    with pytest.raises(KeyboardInterrupt):
        train(config, run, force=True)
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    assert checkpoint.steps(run) == [2]
    assert train(config, run, resume=True).stopped == "steps" and not previous.exists(run)


def test_the_model_of_a_run_that_was_replaced_is_not_found_again(folder: Path, regard: Regard) -> None:
    """A kill inside the writing of a model leaves it complete in .commit: it is that run's, and goes with it."""
    run = folder / "runs" / "a"
    done = regard("train", "--resume", "runs/a", "--steps", "6", cwd=folder, REGARD_STOP_AT="model:renamed")
    assert done.code == -signal.SIGKILL and (run / ".commit").is_dir()
    killed = regard(
        "train", "t.zh", "t.en", "-o", "runs/a", *QUICK, "--seed", "9", "--force", cwd=folder, REGARD_STOP_AT="save:end"
    )
    assert killed.code == -signal.SIGKILL
    done = regard("train", "--resume", "runs/a", "--steps", "2", cwd=folder, REGARD_STOP_AT="step")
    assert not (run / ".commit").is_dir() and not list(run.glob("*.partial")) and not list(run.glob(".*.partial"))


def test_a_training_that_diverges_does_not_take_the_place_of_a_run(folder: Path, regard: Regard) -> None:
    run = folder / "runs" / "a"
    before = contents(run)
    wild = ("--learning-rate", "1000000000", "--warmup-steps", "1", "--steps", "100", "--save-every", "100000")
    anew = ("train", "t.zh", "t.en", "-o", "runs/a", *SMALL, *wild, "--validate-every", "100000", "--force")
    message = refused(regard(*anew, cwd=folder))
    assert "had no finite loss" in message and contents(run) == before


def test_ctrl_c_after_some_updates_and_no_checkpoint_brings_the_earlier_run_back(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    run = folder / "runs" / "a"
    before = contents(run)
    config = read_config(
        run / "run.toml", [f"data.train={folder}/t", f"data.valid={folder}/t"], seed=9,
        training={"steps": 100, "log_every": 3, "save_every": 50, "validate_every": 50},
    )  # fmt: skip

    def stop(kind: str, values: object) -> None:
        if kind == "train":
            signal.raise_signal(signal.SIGINT)

    result = train(config, run, force=True, on_event=stop)
    assert (result.stopped, result.step) == ("interrupted", 3) and contents(run) == before


@pytest.mark.parametrize("where", ["", "data/"])
def test_a_strangers_run_writes_nothing_elsewhere(folder: Path, regard: Regard, where: str) -> None:
    run, victim = folder / "runs" / "a", folder / "victim"
    victim.mkdir()
    (victim / "keys").write_text("mine", "utf-8")
    place = run / where
    (place / "sub").symlink_to(victim)
    (place / ".commit" / "sub").mkdir(parents=True)
    (place / ".commit" / "sub" / "keys").write_text("evil", "utf-8")
    listed = {"sub/keys": {"bytes": 4, "sha256": hashlib.sha256(b"evil").hexdigest()}}
    (place / ".commit" / "manifest.json").write_text(json.dumps({"format_version": 1, "files": listed}), "utf-8")
    done = regard("train", "--resume", "runs/a", "--steps", "6", cwd=folder)
    assert "Traceback" not in done.said and (victim / "keys").read_text("utf-8") == "mine", done.said


@pytest.mark.parametrize("name", ["snapshots", "checkpoints", "data", "corpus"])
def test_a_link_among_a_runs_folders_is_refused_before_anything_is_written(
    folder: Path, regard: Regard, name: str
) -> None:
    run, victim = folder / "runs" / "a", folder / "victim"
    (victim / "step-1").mkdir(parents=True)
    shutil.rmtree(run / name)
    (run / name).symlink_to(victim)
    assert "a link out of the run" in refused(regard("train", "--resume", "runs/a", "--steps", "6", cwd=folder))
    assert [path.name for path in victim.iterdir()] == ["step-1"]


@pytest.mark.parametrize("clock", ['{"seconds": []}', "{}"])
def test_a_checkpoint_made_by_hand_gives_way_to_the_older_one(folder: Path, regard: Regard, clock: str) -> None:
    place = folder / "runs" / "a" / "checkpoints" / "step-4"
    (place / "clock.json").write_text(clock, "utf-8")
    listed = {path.name: path for path in place.iterdir() if path.name != "manifest.json"}
    entries = {
        name: {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for name, path in listed.items()
    }
    (place / "manifest.json").write_text(json.dumps({"format_version": 1, "files": entries}), "utf-8")
    done = regard("train", "--resume", "runs/a", cwd=folder)
    assert done.code == 0 and "going on from step-2" in done.said, done.said


def test_a_proof_does_not_touch_a_run(folder: Path, regard: Regard) -> None:
    run = folder / "runs" / "a"
    before = contents(run)
    refused(regard("train", "t.zh", "t.en", "-o", "runs/a", *QUICK, "--force", "--prove-resume", cwd=folder))
    assert contents(run) == before
    (folder / "mine" / "proof").mkdir(parents=True)
    refused(regard("train", "t.zh", "t.en", "-o", "mine", *QUICK, "--prove-resume", cwd=folder))
    assert (folder / "mine" / "proof").is_dir()


def test_ctrl_c_before_the_first_checkpoint_brings_the_earlier_run_back(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    run = folder / "runs" / "a"
    before = contents(run)
    config = read_config(run / "run.toml", [f"data.train={folder}/t", f"data.valid={folder}/t"], seed=9)

    def stop(kind: str, values: object) -> None:
        if kind == "preflight":
            signal.raise_signal(signal.SIGINT)

    result = train(config, run, force=True, on_event=stop)
    assert result.stopped == "interrupted" and contents(run) == before


@pytest.mark.parametrize(
    "point", ["aside:moved", "aside:moved#3", "aside:done", "step", "back:cleared", "back:moved#2"]
)
def test_a_kill_before_the_first_checkpoint_brings_the_earlier_run_back(
    folder: Path, regard: Regard, point: str
) -> None:
    run = folder / "runs" / "a"
    before = contents(run)
    anew = ("train", "t.zh", "t.en", "-o", "runs/a", *QUICK, "--seed", "9", "--force")
    if point.startswith("back"):
        killed = regard(*anew, "--batch-tokens", "1", cwd=folder, REGARD_STOP_AT=point)
    else:
        killed = regard(*anew, cwd=folder, REGARD_STOP_AT=point)
    assert killed.code == -signal.SIGKILL
    done = regard("train", "--resume", "runs/a", cwd=folder)
    assert done.code == 0, done.said
    after = contents(run)
    # Resuming a finished run writes the card anew, with the time of day.
    names = [
        name
        for name in before
        if "tensorboard" not in name and name not in ("timing.jsonl", "README.md", "manifest.json")
    ]
    assert {name: after.get(name) for name in names} == {name: before[name] for name in names}
    assert not list(run.glob(".previous*"))


# --- a run that was moved -------------------------------------------------------------------------------------------


def test_a_run_that_was_moved_goes_on(folder: Path, regard: Regard, tmp_path: Path) -> None:
    (folder / "runs" / "a").rename(tmp_path / "elsewhere")
    done = regard("train", "--resume", "elsewhere", "--steps", "6", cwd=tmp_path)
    assert done.code == 0, done.said
    assert "going on from update 4" in done.said
    done = regard("train", "--resume", tmp_path / "elsewhere", "--steps", "8", cwd=folder)
    assert done.code == 0 and "going on from update 6" in done.said


def test_a_run_of_an_earlier_version_that_was_moved_goes_on(folder: Path, regard: Regard) -> None:
    run = folder / "runs" / "b"
    (folder / "runs" / "a").rename(run)
    toml = (run / "run.toml").read_text("utf-8")
    (run / "run.toml").write_text(toml.replace("$RUN/", "runs/a/"), "utf-8")
    refused(regard("train", "--resume", "runs/b", "--steps", "6", cwd=folder))
    named = ("--set", "data.train=runs/b/corpus/train", "--valid", "runs/b/corpus/valid")
    done = regard("train", "--resume", "runs/b", "--steps", "6", *named, cwd=folder)
    assert done.code == 0, done.said


def test_corpora_that_were_moved_are_named_anew_when_they_are_the_same(folder: Path, regard: Regard) -> None:
    tiny_run.write(folder)
    assert regard("train", "config.toml", "-o", "runs/c", "--steps", "4", "--save-every", "4", cwd=folder).code == 0
    (folder / "corpora").mkdir()
    for path in (*folder.glob("train.*"), *folder.glob("valid.*")):
        path.rename(folder / "corpora" / path.name)
    before = contents(folder / "runs" / "c")
    message = refused(regard("train", "--resume", "runs/c", "--steps", "6", cwd=folder))
    assert "train.xx: no such file" in message and "--set data.train=" in message
    for language in ("xx", "en"):
        text = (folder / "corpora" / f"train.{language}").read_text("utf-8")
        (folder / "corpora" / f"other.{language}").write_text(text + "a\n", "utf-8")
    named = ("--set", "data.train=corpora/other", "--valid", "corpora/valid")
    message = refused(regard("train", "--resume", "runs/c", "--steps", "6", *named, cwd=folder))
    assert "not what the run was begun with" in message
    assert contents(folder / "runs" / "c") == before
    named = ("--set", "data.train=corpora/train", "--valid", "corpora/valid")
    done = regard("train", "--resume", "runs/c", "--steps", "6", *named, cwd=folder)
    assert done.code == 0 and "going on from update 4" in done.said
    assert regard("train", "--resume", "runs/c", "--steps", "8", cwd=folder).code == 0


# --- stopped before the first update --------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_was_stopped_at_once_goes_on_as_advised(
    folder: Path, regard: Regard, server: Server, number: int
) -> None:
    log = folder / "log"
    pid = server.start(["train", "t.zh", "t.en", "-o", "runs/d", *SMALL, "--steps", "100000"], log, folder)
    while not (log.exists() and "tokenizing" in log.read_text("utf-8")):
        time.sleep(0.005)
    os.kill(pid, number)
    assert server.wait(pid) == 130
    advice = log.read_text("utf-8").strip().splitlines()[-1].partition("go on with: regard ")[2].split()
    done = regard(*advice, "--steps", "2", cwd=folder)
    assert done.code == 0, done.said


def test_a_run_without_a_first_update_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    config = read_config(
        folder / "runs" / "a" / "run.toml", [f"data.train={folder}/t", f"data.valid={folder}/t"], training={"steps": 2}
    )
    result = train(config, folder / "runs" / "e", on_event=lambda kind, _: signal.raise_signal(signal.SIGINT))
    assert (result.stopped, result.step) == ("interrupted", 0)
    assert train(config, folder / "runs" / "e", resume=True).stopped == "steps"


def test_no_time_at_all_is_time_for_one_update(folder: Path, regard: Regard) -> None:
    quick = ("--validate-every", "5", "--save-every", "5")
    done = regard("train", "t.zh", "t.en", "-o", "runs/f", *SMALL, *quick, "--minutes", "0.00001", cwd=folder)
    assert done.code == 0, done.said
    assert "going on from" not in done.said
    more = regard("train", "--resume", "runs/f", "--minutes", "0.05", cwd=folder)
    assert more.code == 0 and "going on from update 1" in more.said, more.said


def test_a_run_elsewhere_cannot_be_resumed_by_two(folder: Path) -> None:
    run = folder / "runs" / "a"
    before = contents(run)
    config = read_config(run / "run.toml", [f"data.train={folder}/t", f"data.valid={folder}/t"])
    with locked(run / ".lock"), pytest.raises(RegardError, match="another training"):
        train(config, run, resume=True)
    assert contents(run) == before
