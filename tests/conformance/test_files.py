"""A saved model comes back as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from thin import build, memory_of, result, targets

from regard import directory
from regard.text.settings import TextSettings
from regard.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["one two three", "three two one", "我 爱 你"] * 3, "bpe", 280, ("nfc",))


def test_save_and_load(name: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = build(name, tokenizer.size, torch.float32)
    settings = TextSettings(source="zh", target="en", max_length=17)
    directory.save(tmp_path / "model", model, model.options, settings, tokenizer, card="# a card")
    loaded = directory.load(tmp_path / "model")
    assert (loaded.options, loaded.settings, loaded.card) == (model.options, settings, "# a card")
    before, after = model.state_dict(), loaded.model.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[key], after[key]) for key in before)
    target = targets(model, [3, 5])
    outputs = [result(m, target, memory_of(m, [4, 2])) for m in (model, loaded.model)]
    assert torch.equal(*outputs)


def test_tied_tables_are_one_on_disk_and_in_memory(name: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = build(name, tokenizer.size, torch.float32)
    directory.save(tmp_path / "model", model, model.options, TextSettings(), tokenizer)
    stored = load_file(tmp_path / "model" / "model.safetensors")
    assert sum(tensor.numel() for tensor in stored.values()) == sum(p.numel() for p in model.parameters())
    assert not any("query_key_value" in key for key in stored)
    loaded = directory.load(tmp_path / "model").model
    assert len(list(loaded.parameters())) == len(list(model.parameters()))
