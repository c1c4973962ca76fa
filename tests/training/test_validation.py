import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from regard.config import Config
from regard.data.batch import collate
from regard.data.prepare import prepare
from regard.decoding.search import Search
from regard.models import registry
from regard.training.validation import Abandoned, Validator, swapped


def test_loss_perplexity_and_samples(tiny: Callable[..., Config], tmp_path: Path) -> None:
    config = tiny(**{"training.samples": 2})
    prepared = prepare(config, tmp_path / "data")
    model = registry.options_from(config.model).build(prepared.tokenizer.size)
    validator = Validator(config, prepared.valid, prepared.target_tokenizer, prepared.settings)
    values = validator.measure(model)

    model.eval()
    total, tokens = 0.0, 0
    for source, target in zip(validator.sources, validator.targets, strict=True):
        batch = collate([source], [target], prepared.settings)
        logits = model.logits(model(batch.target, model.encode(batch.source)).hidden)[0]
        total += F.cross_entropy(logits, batch.labels[0], reduction="sum").item()
        tokens += len(target) + 1
    assert values["loss"] == pytest.approx(total / tokens, rel=1e-5)
    assert values["perplexity"] == pytest.approx(math.exp(total / tokens), rel=1e-4)
    assert values["bleu"] >= 0 and "tok:13a" in values["bleu_signature"]
    lines = (tmp_path / "corpus" / "valid.de").read_text().splitlines()
    assert [sample["source"] for sample in values["samples"]] == [lines[3], lines[9]]


def test_training_goes_on_as_it_was(tiny: Callable[..., Config], tmp_path: Path) -> None:
    config = tiny(**{"training.metric": "loss", "training.validate_sentences": 5})
    prepared = prepare(config, tmp_path / "data")
    model = registry.options_from(config.model).build(prepared.tokenizer.size).train()
    validator = Validator(config, prepared.valid, prepared.target_tokenizer, prepared.settings)
    state = torch.get_rng_state()
    values = validator.measure(model)
    assert model.training and torch.equal(torch.get_rng_state(), state)
    assert "bleu" not in values and validator.score(values) == -values["loss"]
    assert len(validator.references) == 5
    assert validator.score({"loss": math.nan}) == -math.inf
    assert validator.measure(model) == values
    validator.measure(model, search=Search(beam=2))["bleu"]


def test_a_validation_that_is_told_to_stop_leaves_no_trace(tiny: Callable[..., Config], tmp_path: Path) -> None:
    config = tiny()
    prepared = prepare(config, tmp_path / "data")
    model = registry.options_from(config.model).build(prepared.tokenizer.size).train()
    asked = iter([False, True])
    validator = Validator(config, prepared.valid, prepared.target_tokenizer, prepared.settings, lambda: next(asked))
    with pytest.raises(Abandoned):
        validator.measure(model)
    assert model.training


def test_swapped_weights_come_back() -> None:
    layer = torch.nn.Linear(2, 2)
    own = layer.weight.data
    with swapped(layer, {"weight": torch.ones(2, 2)}):
        assert layer.weight.sum() == 4
    assert layer.weight.data.data_ptr() == own.data_ptr()
