"""Trainings that start from published folders, as ``save_pretrained`` of Hugging Face writes them."""

from __future__ import annotations

import json
import random
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from tokenizers import pre_tokenizers

import regard
from regard import directory
from regard.cli.main import main
from regard.pipelines.classifier import Classifier
from regard.pipelines.filler import Filler
from regard.pipelines.generator import Generator
from regard.pipelines.loading import open_model
from regard.schema import DataConfig

transformers = pytest.importorskip("transformers")

WORDS = ["the", "king", "and", "queen", "of", "all", "lands", "go", "to", "sea", "in", "good", "ships", "with", "gold"]
BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *dict.fromkeys(WORDS)]
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
BRIEF = ("--steps", "4", "--save-every", "4", "--validate-every", "4", "--batch-tokens", "256", "--device", "cpu")


def bert(path: Path, kind: str, labels: tuple[str, ...] = ()) -> None:
    """A BERT of random weights, with its tokenizer."""
    named = {"id2label": dict(enumerate(labels)), "label2id": {name: number for number, name in enumerate(labels)}}
    torch.manual_seed(1)
    config = transformers.BertConfig(vocab_size=len(BERT), max_position_embeddings=32, **SIZES, **named)
    getattr(transformers, kind)(config).save_pretrained(path)
    transformers.BertTokenizer(vocab={word: number for number, word in enumerate(BERT)}).save_pretrained(path)


def llama(path: Path) -> None:
    """A LLaMA of random weights, with a tokenizer whose marks are named as those of LLaMA 3."""
    names = ["<|begin_of_text|>", "<|end_of_text|>", ".", *dict.fromkeys(WORDS)]
    model = tokenizers.models.WordLevel({name: number for number, name in enumerate(names)}, unk_token=".")
    inner = tokenizers.Tokenizer(model)
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.add_special_tokens(names[:2])
    torch.manual_seed(1)
    config = transformers.LlamaConfig(
        vocab_size=len(names), max_position_embeddings=32, bos_token_id=0, eos_token_id=1, **SIZES
    )
    transformers.LlamaForCausalLM(config).save_pretrained(path)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<|begin_of_text|>", eos_token="<|end_of_text|>"
    ).save_pretrained(path)


@pytest.fixture
def corpora(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    draw = random.Random(1)
    lines = [" ".join(draw.choices(WORDS, k=8)) + "." for _ in range(200)]
    (tmp_path / "plays.txt").write_text("".join(f"{line}\n" for line in lines), "utf-8")
    rows = "".join(f"{line}\t{'rich' if 'gold' in line else 'poor'}\n" for line in lines)
    (tmp_path / "wealth.tsv").write_text(f"text\tlabel\n{rows}", "utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def trained(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    """The pipeline of a run that was begun from a folder; its settings are the folder's."""
    assert main(["train", *arguments, "--init", "bare", "-o", "run", *BRIEF, "--json"]) == 0, capsys.readouterr().err
    found = json.loads(capsys.readouterr().out)
    assert found["step"] == 4 and found["loss"] > 0
    first, now = open_model("bare"), directory.load("run")
    assert now.settings is not None and first.settings is not None
    assert now.settings.source_before == first.settings.source_before and now.settings.mask == first.settings.mask
    assert (now.settings.start, now.settings.ends) == (first.settings.start, first.settings.ends)
    assert now.vocabulary == first.vocabulary and now.options == first.options
    before, after = (directory.stored(one.model) for one in (first, now))
    assert before.keys() == after.keys() and any(not torch.equal(before[name], after[name]) for name in before)
    return regard.load("run")


def test_a_classifier(corpora: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bert(corpora / "bare", "BertForSequenceClassification", ("rich", "poor"))
    classifier = trained(capsys, "wealth.tsv")
    assert isinstance(classifier, Classifier) and classifier.classify(["the king"])[0].label in ("rich", "poor")


def test_masked_words(corpora: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bert(corpora / "bare", "BertForMaskedLM")
    filler = trained(capsys, "plays.txt", "--task", "masked", "--max-length", "24")
    assert isinstance(filler, Filler) and filler.fill(["the [MASK] of all lands"])[0].text


def test_a_language_model(corpora: Path, capsys: pytest.CaptureFixture[str]) -> None:
    llama(corpora / "bare")
    generator = trained(capsys, "plays.txt", "--max-length", "24")
    assert isinstance(generator, Generator)
    assert generator.generate(["the king"], max_tokens=3, temperature=0)


def test_without_a_tokenizer(corpora: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bert(corpora / "bare", "BertForMaskedLM")
    for name in ("tokenizer.json", "vocab.txt", "tokenizer_config.json", "special_tokens_map.json"):
        (corpora / "bare" / name).unlink(missing_ok=True)
    assert main(["train", "plays.txt", "--task", "masked", "--init", "bare", "-o", "run", *BRIEF]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "bare: this model reads no text: it has no" in error, error
    assert not (corpora / "run").exists()


def test_a_recipe_has_no_model_and_no_vocabulary(corpora: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bert(corpora / "bare", "BertForSequenceClassification", ("rich", "poor"))
    assert main(["train", "wealth.tsv", "--init", "bare", "--print-config"]) == 0
    config = tomllib.loads(capsys.readouterr().out)
    usual = DataConfig(train=("a",), valid="a")
    assert not config.get("model")
    assert (config["data"]["tokenizer"], config["data"]["vocabulary"]) == (usual.tokenizer, usual.vocabulary)
    assert main(["train", "wealth.tsv", "--init", "bare", "-o", "run", *BRIEF]) == 0
    told = capsys.readouterr().err
    assert "at most" not in told and "the subwords of bare; everything is written to run" in told
    assert not tomllib.loads((corpora / "run" / "run.toml").read_text("utf-8")).get("model")


@pytest.mark.parametrize("task", ["classification", "masked"])
def test_a_configuration_without_an_architecture(task: str, corpora: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = ("rich", "poor") if task == "classification" else ()
    bert(corpora / "bare", "BertForSequenceClassification" if labels else "BertForMaskedLM", labels)
    file = "wealth.tsv" if labels else "plays.txt"
    text = f'task = "{task}"\n[data]\ntrain = ["{file}"]\nvalid = "{file}"\nmax_length = 24\n[model]\nlayers = 1\n'
    (corpora / "a.toml").write_text(f'{text}[training]\ninit = "bare"\n', "utf-8")
    assert main(["train", "a.toml", "-o", "run", *BRIEF]) == 0, capsys.readouterr().err
    for given, told in (
        ("layers=2", "[model] makes 'decoder.layers.1."),
        ("layer=2", "model.layer"),
        ("heads=3", "heads"),
    ):
        assert main(["train", "a.toml", "-o", "other", "--set", f"model.{given}", *BRIEF]) == 2
        assert told in capsys.readouterr().err and not (corpora / "other").exists()
