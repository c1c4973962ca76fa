"""``regard train``: from a configuration and from two files, existing runs, flags, and going on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
import tomllib
from pathlib import Path

import pytest

from regard.models.registry import options_from

from .conftest import PROGRAM, TINY, Regard, pairs, refused, write_corpus

SMALL = ("--steps", "6", "--validate-every", "3", "--save-every", "3", "--set", "model.width=16", "--threads", "1")
SMALL += ("--set", "model.heads=2", "--set", "model.feedforward=16", "--vocabulary", "330", "--batch-tokens", "512")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A corpus of 200 pairs, a configuration, and nothing else."""
    rows = pairs(240, seed=2)
    write_corpus(tmp_path, "train", rows[:200])
    write_corpus(tmp_path, "valid", rows[200:])
    (tmp_path / "tiny.toml").write_text(TINY, "utf-8")
    return tmp_path


def test_a_run_is_a_model_with_its_card_and_history(model: Path) -> None:
    for name in ("config.json", "model.safetensors", "text.json", "tokenizer.json", "README.md", "run.toml"):
        assert (model / name).stat().st_size > 0, name
    rows = [json.loads(line) for line in (model / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert {"train", "validation", "choice"} <= {row["kind"] for row in rows}
    assert not [key for row in rows for key in row if "second" in key or "time" in key], "no clock in metrics.jsonl"
    assert "sacreBLEU" in (model / "README.md").read_text("utf-8")


def test_the_resolved_configuration_trains_the_same_weights(workshop: Path, model: Path, regard: Regard) -> None:
    again = workshop / "runs" / "again"
    if not again.exists():
        done = regard("train", model / "run.toml", "--run", again, cwd=workshop)
        assert done.returncode == 0, done.stderr.decode()
    assert (again / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()
    assert (again / "metrics.jsonl").read_bytes() == (model / "metrics.jsonl").read_bytes()


def test_print_config_is_complete_and_writes_nothing(folder: Path, regard: Regard) -> None:
    before = sorted(folder.rglob("*"))
    done = regard(
        "train",
        "tiny.toml",
        "--print-config",
        "--label-smoothing",
        "0.2",
        "--set",
        "model.positions=rotary",
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr.decode()
    config = tomllib.loads(done.stdout.decode())
    assert config["training"]["label_smoothing"] == 0.2 and config["training"]["beta2"] == 0.98
    assert config["model"]["positions"] == "rotary" and config["data"]["vocabulary"] == 330
    assert config["model"]["window"] == 0 and config["model"]["bias"] is True
    written = tomllib.loads((folder / "tiny.toml").read_text("utf-8"))["model"]
    assert options_from(config["model"]) == options_from({**written, "positions": "rotary"})
    assert sorted(folder.rglob("*")) == before


def test_print_config_refuses_a_wrong_option_of_the_model(folder: Path, regard: Regard) -> None:
    for wrong, message in (
        ("windw=3", "unknown key 'model.windw' — did you mean 'window'?"),
        ("window=-3", "model: window=-3 must be at least 0"),
    ):
        done = regard("train", "tiny.toml", "--print-config", "--set", f"model.{wrong}", cwd=folder)
        assert (done.returncode, done.stdout) == (2, b"")
        assert done.stderr.decode() == f"regard: error: {message}\n"


def test_flags_and_set_override_the_file(folder: Path, regard: Regard) -> None:
    done = regard(
        "train", "tiny.toml", "--print-config", "--seed", "7", "--no-joint", "--bf16", "--patience", "3",
        "--set", "training.steps=9", "--preset", "tiny", cwd=folder,
    )  # fmt: skip
    config = tomllib.loads(done.stdout.decode())
    assert config["seed"] == 7 and config["data"]["joint"] is False and config["model"]["preset"] == "tiny"
    assert (config["training"]["precision"], config["training"]["patience"], config["training"]["steps"]) == (
        "bf16",
        3,
        9,
    )


def test_every_flag_is_a_key_of_the_configuration(regard: Regard) -> None:
    from regard.cli.flags import config_flags

    text = regard("train", "--help", COLUMNS="200").stdout.decode()
    for name, row in config_flags().items():
        assert "--" + name.replace("_", "-") in text, row.key


def test_two_files_are_enough(folder: Path, regard: Regard) -> None:
    done = regard("train", "train.zh", "train.en", *SMALL, "--json", cwd=folder)
    assert done.returncode == 0, done.stderr.decode()
    result = json.loads(done.stdout)
    assert result["run"] == "runs/zh-en" and result["step"] == 6 and result["stopped"] == "steps"
    assert "zh → en: 198 pairs to train on, 2 held out" in done.stderr.decode()
    run = folder / "runs" / "zh-en"
    held = {name: (run / "corpus" / f"{name}.zh").read_text("utf-8").splitlines() for name in ("train", "valid")}
    assert len(held["train"]) == 198 and len(held["valid"]) == 2 and not set(held["train"]) & set(held["valid"])
    translated = regard("translate", "runs/zh-en", input="一二\n".encode(), cwd=folder)
    assert translated.returncode == 0 and translated.stdout.count(b"\n") == 1

    assert "--resume" in refused(regard("train", "train.zh", "train.en", *SMALL, cwd=folder))
    forced = regard("train", "train.zh", "train.en", *SMALL, "--force", cwd=folder)
    assert forced.returncode == 0 and forced.stdout.decode() == "runs/zh-en\n"


def test_duplicates_stay_on_one_side_of_the_split(folder: Path, regard: Regard) -> None:
    rows = pairs(60, seed=3)
    rows = [row for row in rows for _ in range(3)] + [(source, target + " again") for source, target in rows]
    write_corpus(folder, "many", rows)
    done = regard("train", "many.zh", "many.en", *SMALL, "--run", "split", cwd=folder)
    assert done.returncode == 0, done.stderr.decode()
    corpus = folder / "split" / "corpus"
    for language in ("zh", "en"):
        train, valid = ((corpus / f"{name}.{language}").read_text("utf-8").splitlines() for name in ("train", "valid"))
        assert len(train) + len(valid) == len(rows) and not set(train) & set(valid)


def test_an_existing_run_is_refused_unless_forced(workshop: Path, model: Path, regard: Regard) -> None:
    message = refused(regard("train", "tiny.toml", cwd=workshop))
    assert "runs/tiny" in message and "--resume" in message and "--force" in message
    assert (model / "model.safetensors").exists()


def test_a_folder_that_is_no_run_cannot_be_resumed(folder: Path, regard: Regard) -> None:
    (folder / "other").mkdir()
    assert refused(regard("train", "--resume", "other", cwd=folder)).startswith("other: no run")
    assert refused(regard("train", "--resume", "nowhere", cwd=folder)).startswith("nowhere: no run")


def test_resume_takes_more_steps_and_refuses_another_training(workshop: Path, model: Path, regard: Regard) -> None:
    longer = workshop / "runs" / "longer"
    if longer.exists():
        shutil.rmtree(longer)
    shutil.copytree(model, longer)
    message = refused(regard("train", "--resume", longer, "--seed", "5", cwd=workshop))
    assert "seed" in message
    done = regard("train", "--resume", longer, "--steps", "245", "--json", cwd=workshop)
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout)["step"] == 245


def test_control_c_saves_and_says_how_to_go_on(folder: Path) -> None:
    process = subprocess.Popen(
        [PROGRAM, "train", "tiny.toml", "--steps", "100000", "--log-every", "1", "--run", "stopped"],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        if line.startswith("step 3/"):
            break
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 130, said + rest
    assert "regard train --resume stopped" in rest and "Traceback" not in rest
    assert list((folder / "stopped" / "checkpoints").glob("step-*"))


def test_a_killed_run_goes_on_to_the_same_weights(workshop: Path, model: Path, regard: Regard) -> None:
    killed = workshop / "runs" / f"killed-{os.getpid()}"
    first = regard("train", "tiny.toml", "--run", killed, cwd=workshop, REGARD_STOP_AT="save:manifest#2")
    assert first.returncode == -signal.SIGKILL, first.stderr.decode()
    done = regard("train", "--resume", killed, cwd=workshop)
    assert done.returncode == 0, done.stderr.decode()
    assert (killed / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()
    assert (killed / "metrics.jsonl").read_bytes() == (model / "metrics.jsonl").read_bytes()


@pytest.mark.slow
def test_prove_resume_holds_and_leaves_nothing(folder: Path, regard: Regard) -> None:
    done = regard("train", "tiny.toml", "--prove-resume", cwd=folder, timeout=300)
    assert done.returncode == 0, done.stderr.decode()
    assert "equal, bit for bit" in done.stdout.decode()
    assert not (folder / "runs" / "tiny-proof").exists()


def test_a_short_budget_in_minutes_ends_the_run(folder: Path, regard: Regard) -> None:
    started = time.monotonic()
    done = regard(
        "train",
        "tiny.toml",
        "--steps",
        "1000000",
        "--minutes",
        "0.05",
        "--validate-every",
        "1000000",
        "--json",
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout)["stopped"] == "minutes" and time.monotonic() - started < 90
