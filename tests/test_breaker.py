"""Faults found by attack; each test fails on main at 8acbb39."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import regard
from regard import directory
from regard.errors import RegardError
from regard.models.decoder import DecoderOnly
from regard.models.encoder import Encoder
from regard.models.heads import MaskedWords, TextLabels
from regard.text.learn import learn
from regard.text.settings import TextSettings
from regard.text.tokenizer import Tokenizer

TEXTS = ["the cat sat on the mat", "a dog ran to the house"] * 20
SMALL = {"width": 16, "heads": 2, "layers": 1, "feedforward": 32}


def saved(folder: Path, options: object, task: str, *, more_rows: int = 0, **settings: object) -> Path:
    torch.manual_seed(0)
    tokenizer = Tokenizer(learn(TEXTS, "bpe", 320, 1.0))
    sizes = tokenizer.size + more_rows, None
    model = options.build(*sizes)  # type: ignore[attr-defined]
    given = TextSettings(normalize=("nfc",), **settings)  # type: ignore[arg-type]
    directory.save(folder, model, options, given, tokenizer, task=task, vocabulary=sizes)  # type: ignore[arg-type]
    return folder


def test_two_masks_as_far_apart_as_the_model_reads(tmp_path: Path) -> None:
    options = Encoder(**SMALL, head=MaskedWords())  # type: ignore[arg-type]
    folder = saved(tmp_path / "m", options, "masked", mask=1, start=(), ends=(), source_after=(), max_length=8)
    filler = regard.load(folder)
    ids = filler.tokenizer.encode_batch(["cat"])[0]
    for words in range(1, 12):  # one of them makes the masks exactly max_length - 1 subwords apart
        text = "a a [MASK] " + " ".join(["cat"] * words) + " [MASK] a a"
        try:
            assert len(filler.fill([text], 1)[0].masks) == 2, (words, ids)
        except RegardError as error:
            assert "apart" in str(error)


def test_generation_of_a_model_with_more_rows_than_its_tokenizer(tmp_path: Path) -> None:
    folder = saved(tmp_path / "m", DecoderOnly(**SMALL), "language_model", more_rows=200, start=(2,), ends=(3,))  # type: ignore[arg-type]
    generator = regard.load(folder)
    for seed in range(5):
        found = generator.generate(["the cat"], max_tokens=30, seed=seed)[0]
        assert max(found.ids) < generator.tokenizer.size


@pytest.mark.parametrize("task", ["language_model", "tagging", "masked", "translation"])
def test_a_task_that_does_not_fit_the_model_is_refused_when_it_is_read(tmp_path: Path, task: str) -> None:
    options = Encoder(**SMALL, head=TextLabels(pooling="mean"), labels=("a", "b"))  # type: ignore[arg-type]
    folder = saved(tmp_path / "m", options, "classification", mask=1, start=(), ends=(), source_after=())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "task": task}))
    (folder / "manifest.json").unlink()
    with pytest.raises(RegardError, match=r"config\.json.*task"):
        regard.load(folder)


def test_generate_refuses_a_classifier_in_one_line(tmp_path: Path) -> None:
    options = Encoder(**SMALL, head=TextLabels(pooling="mean"), labels=("a", "b"))  # type: ignore[arg-type]
    folder = saved(tmp_path / "m", options, "classification", start=(), ends=(), source_after=())
    command = [sys.executable, "-m", "regard", "generate", str(folder), "-p", "x"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 2
    assert "Traceback" not in found.stderr


def test_labels_of_one_name_are_refused(tmp_path: Path) -> None:
    options = Encoder(**SMALL, head=TextLabels(pooling="mean"), labels=("a", "b"))  # type: ignore[arg-type]
    folder = saved(tmp_path / "m", options, "classification", start=(), ends=(), source_after=())
    config = json.loads((folder / "config.json").read_text())
    config["options"]["labels"] = ["a", "a"]
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "manifest.json").unlink()
    with pytest.raises(RegardError, match="labels"):
        regard.load(folder)


def test_opening_learned_positions_does_not_import_the_compiler(tmp_path: Path) -> None:
    options = Encoder(**SMALL, head=TextLabels(pooling="mean"), labels=("a", "b"))  # type: ignore[arg-type]
    folder = saved(tmp_path / "m", options, "classification", start=(), ends=(), source_after=())
    code = f"import regard, sys; regard.load({str(folder)!r}); sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
