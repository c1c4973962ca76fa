"""``regard bench``: figures that belong together, on a model of a few thousand numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from regard.bench.training import TrainingSpeed
from regard.cli import main

TOML = """
[data]
train = ["a"]
valid = "b"
source = "zh"
target = "en"
[model]
architecture = "transformer"
width = 16
heads = 2
feedforward = 16
encoder_layers = 1
decoder_layers = 1
"""


def test_training_speed_is_a_share_of_the_matrix_rate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "c.toml"
    path.write_text(TOML)
    flags = ["--vocabulary", "300", "--batch-tokens", "128", "--updates", "2", "--threads", "1", "--device", "cpu"]
    assert main(["bench", "train", str(path), *flags, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["target_tokens_per_second"] > 0 and found["matrix_rate"] > 0 and 0 < found["share"] <= 1
    assert found["parameters"] == 300 * 16 + 16 * 16 * 4 * 3 + 16 * 4 * 3 + 2 * (2 * 16 * 16 + 32) + 5 * 32
    assert found["matrix_rate"] >= found["shape_rate"] > 0
    found.pop("shape")
    assert "target tokens/s" in " ".join(TrainingSpeed(**found).lines())


@pytest.mark.slow
def test_the_parts_of_the_time_are_a_whole_and_are_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, train, decode = tmp_path / "c.toml", tmp_path / "train.png", tmp_path / "decode.svg"
    path.write_text(TOML)
    flags = ["--vocabulary", "300", "--batch-tokens", "128", "--updates", "1", "--threads", "1", "--device", "cpu"]
    assert main(["bench", "train", str(path), *flags, "--json", "--png", str(train)]) == 0
    parts = [json.loads(capsys.readouterr().out)["parts"]]
    flags = ["--beam", "1", "--beam", "2", "--sentences", "3", "--device", "cpu", "--threads", "1"]
    assert main(["bench", "decode", "zh-en", *flags, "--json", "--png", str(decode)]) == 0
    parts += [speed["parts"] for speed in json.loads(capsys.readouterr().out)["speeds"]]
    for shares in parts:
        assert sum(shares.values()) == pytest.approx(1.0)
        assert {"products with weights", "attention", "copies", "between operators"} <= set(shares)
    assert "optimizer" in parts[0] and "ranking" in parts[2]
    assert train.read_bytes().startswith(b"\x89PNG") and b"<svg" in decode.read_bytes()


@pytest.mark.parametrize(
    "words, said",
    [
        (["bench", "train", "--png", "parts.doc"], "parts.doc: a picture's name ends in .png"),
        (["bench", "train", "tinny"], "did you mean 'tiny'"),
        (["bench", "decode", "no-such-model"], "no-such-model: no such directory or packaged model"),
        (["bench"], "regard bench --help"),
    ],
)
def test_errors_are_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    error = capsys.readouterr().err
    assert said in error and error.startswith("regard: error: ") and error.count("\n") == 1
