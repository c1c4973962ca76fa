"""The recipe chosen for a corpus: sizes that grow with it, a vocabulary that holds its characters."""

from __future__ import annotations

from collections import Counter

import pytest

from regard.config import read_config
from regard.models import registry
from regard.training.recipe import recipe

CORPUS = {"train": "a", "valid": "v", "source": "zh", "target": "en"}


@pytest.mark.parametrize("pairs", [10, 25_000, 400_000, 5_000_000])
def test_a_chosen_model_can_be_trained(pairs: int) -> None:
    chosen = recipe(pairs, Counter("abc" * 50))
    config = read_config(None, (), **{**chosen, "data": {**CORPUS, **chosen["data"]}})
    assert registry.parameter_count(registry.options_from(config.model), config.data.vocabulary) > 0
    assert config.training.minutes == 30


def test_larger_corpora_get_larger_models() -> None:
    counts = []
    for pairs in (1_000, 25_000, 400_000, 5_000_000):
        chosen = recipe(pairs, Counter({chr(0x4E00 + i): 100 for i in range(3000)}))
        assert chosen["data"]["vocabulary"] > 3260, "all characters and the bytes fit"
        options = registry.options_from(chosen["model"])
        counts.append(registry.parameter_count(options, chosen["data"]["vocabulary"]))
    assert counts == sorted(counts) and counts[0] < 2_000_000 < counts[-1]


def test_rare_characters_need_no_entries() -> None:
    common = Counter({chr(0x4E00 + i): 10_000 for i in range(100)})
    rare = Counter({chr(0x5E00 + i): 1 for i in range(100)})
    assert recipe(1_000, common + rare)["data"]["vocabulary"] <= recipe(1_000, common)["data"]["vocabulary"] + 100


@pytest.mark.parametrize("task", ["language_model", "masked", "classification"])
@pytest.mark.parametrize("texts", [100, 8_530, 100_000, 5_000_000])
def test_every_task_has_a_recipe(task: str, texts: int) -> None:
    characters = Counter(dict.fromkeys("abcde", 20 * texts))
    chosen = recipe(texts, characters, task=task)
    config = read_config(None, (), **{**chosen, "task": task, "data": {"train": "a", "valid": "v", **chosen["data"]}})
    assert registry.parameter_count(registry.options_from(config.model), config.data.vocabulary) > 0
    assert config.model["architecture"] == ("decoder" if task == "language_model" else "encoder")
    assert config.training.warmup_steps < config.training.steps and config.training.minutes == 30
    assert (config.data.tokenizer == "characters") == (task == "language_model" and 100 * texts < 5_000_000)
