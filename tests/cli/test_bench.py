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
    assert found["target_tokens_per_second"] > 0 and found["matrix_rate"] > 0 and 0 < found["share"] < 1.5
    assert found["parameters"] == 300 * 16 + 16 * 16 * 4 * 3 + 16 * 4 * 3 + 2 * (2 * 16 * 16 + 32) + 5 * 32
    found.pop("shape")
    assert "target tokens/s" in " ".join(TrainingSpeed(**found).lines())


@pytest.mark.parametrize(
    "words, said",
    [
        (["bench", "train", "tinny"], "did you mean 'tiny'"),
        (["bench", "decode", "no-such-model"], "no-such-model: no such directory or packaged model"),
        (["bench"], "regard bench --help"),
    ],
)
def test_errors_are_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    error = capsys.readouterr().err
    assert said in error and error.startswith("regard: error: ") and error.count("\n") == 1
