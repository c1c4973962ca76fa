"""What a server refuses before it answers anybody."""

from __future__ import annotations

from pathlib import Path

import pytest

from regard.cli.main import main
from regard.directory import save
from regard.models.transformer import Transformer
from regard.text.settings import TextSettings
from regard.text.tokenizer import Tokenizer


def test_a_model_without_languages_is_refused_at_the_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It was served as a pair of languages without names, and refused every request."""
    tokenizer = Tokenizer.train(["a b c d"] * 9, vocabulary=280)
    options = Transformer(width=8, heads=2, feedforward=8, encoder_layers=1, decoder_layers=1)
    save(tmp_path / "t5", options.build(tokenizer.size), options, TextSettings(source="en"), tokenizer)
    assert main(["serve", str(tmp_path / "t5"), "--port", "0"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"{tmp_path / 't5'}: this model names no target language" in said
