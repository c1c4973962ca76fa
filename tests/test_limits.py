"""Numbers that end in an overflow or in memory that is not there: each, and their products, are one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import regard
from regard import limits
from regard.cli import main
from regard.config import read_config
from regard.decoding.engine import Search, decode
from regard.errors import RegardError
from regard.models import registry
from regard.pipelines import Translator
from regard.text.settings import TextSettings

HUGE = "99999999999999999999999"


@pytest.fixture(scope="module")
def translator() -> Translator:
    return regard.load("zh-en")


@pytest.mark.parametrize(
    "words",
    [
        ["translate", "zh-en", "--beam", "100000"],
        ["translate", "zh-en", "--beam", "1000000000"],
        ["translate", "zh-en", "--length-penalty", "gnmt:1e308"],
        ["translate", "zh-en", "--length-penalty", "power:-1e300"],
        ["translate", "zh-en", "--length-penalty=nan"],
        ["translate", "zh-en", "--length-penalty=-inf"],
        ["translate", "zh-en", "--n-best", HUGE],
        ["translate", "zh-en", "--threads", "1000000000"],
        ["translate", "zh-en", "--batch-tokens", "1000000000000"],
        ["translate", "zh-en", "--batch-tokens", "0"],
        ["look", "zh-en", "一", "--layer", HUGE],
        ["look", "zh-en", "一", "--head=-1"],
        ["serve", "zh-en", "--beam", HUGE],
        ["serve", "zh-en", "--in-hand", HUGE],
        ["average", "run", "out", "--last", HUGE],
        ["average", "run", "out", "--best", HUGE],
        ["params", "base", "--vocabulary", HUGE],
        ["params", "base", "--vocabulary", "8000", "--target-vocabulary", HUGE],
        ["shortlist", "zh-en", "out", "--source", "a", "--target", "b", "--likely", "1000000000"],
        ["shortlist", "zh-en", "out", "--source", "a", "--target", "b", "--common", HUGE],
        ["demo", "--minutes", "nan"],
        ["demo", "--minutes", "inf"],
        ["demo", "--seed", str(1 << 63)],
        ["bench", "train", "tiny", "--vocabulary", HUGE],
        ["bench", "train", "tiny", "--length", "nan"],
        ["bench", "train", "tiny", "--updates", HUGE],
        ["bench", "decode", "zh-en", "--sentences", HUGE],
        ["bench", "decode", "zh-en", "--beam", "5", "--beam", "100000"],
        ["bench", "serve", "zh-en", "--seconds", "inf"],
        ["bench", "serve", "zh-en", "--clients", HUGE],
    ],
    ids=" ".join,
)
def test_a_number_of_an_option_is_one_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("regard: error: ") and error.count("\n") == 1
    option = next(word for word in reversed(words) if word.startswith("--")).partition("=")[0]
    assert option.replace("-", " ").strip() in error.replace("-", " ")


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        (f"seed={1 << 63}", "seed = 9223372036854775808: expected at most 9223372036854775807"),
        ("training.threads=1000000000", "training.threads = 1000000000: expected at most 1024"),
        (f"training.steps={HUGE}", "expected at most 1000000000"),
        ("training.learning_rate=1e300", "expected at most 1000000000"),
        ("training.minutes=inf", "expected a finite number"),
        (f"training.batch_tokens={HUGE}", "expected at most 16777216"),
        (f"data.vocabulary={HUGE}", "expected at most 4194304"),
        (f"data.max_length={HUGE}", "expected at most 16384"),
        ("decoding.max_extra=1000000000", "expected at most 16384"),
        ("decoding.beam=1001", "expected at most 1000"),
        ("decoding.length_penalty=gnmt:1e308", "from -5 to 5"),
        ("decoding.length_penalty=nan", "from -5 to 5"),
    ],
)
def test_a_number_of_a_configuration_is_one_line(setting: str, said: str) -> None:
    with pytest.raises(RegardError, match=said):
        read_config(None, [setting], data={"train": ["a"], "valid": "b", "source": "zh", "target": "en"})


def test_products_of_numbers_are_one_line(translator: Translator) -> None:
    with pytest.raises(RegardError, match="max_extra is 1,000 × 10,000: expected at most 1,048,576 together"):
        data = {"train": ["a"], "valid": "b", "source": "zh", "target": "en"}
        read_config(None, ["decoding.beam=1000", "decoding.max_extra=10000"], data=data)
    with pytest.raises(RegardError, match="beam × max extra is 1,000 × 16,000"):
        translator.translate(["好"], beam=1000, max_extra=16_000)
    with pytest.raises(RegardError, match=r"beam × longest output is 1,000 × 1,0.*: expected at most 1,048,576"):
        translator.translate(["好"], beam=1000, max_extra=1048)
    with pytest.raises(RegardError, match="batch tokens 0: expected a whole number"):
        translator.score(["好"], ["good"], batch_tokens=0)
    with pytest.raises(RegardError, match="input 1: beam × length is 1,000 × 2,0"):
        sources = [[5] * 1000]
        list(decode(translator.model, sources, translator.settings, Search(beam=1000, max_extra=1000)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"beam": 100_000},
        {"beam": 2.5},
        {"beam": True},
        {"n_best": float("nan")},
        {"beam": 5, "n_best": 10**30},
        {"max_extra": 10**12},
        {"batch_tokens": 0},
        {"batch_tokens": 10**18},
        {"length_penalty": 1e308},
        {"length_penalty": float("nan")},
        {"length_penalty": -6},
        {"no_repeat_ngram": 10**18},
    ],
    ids=str,
)
def test_the_python_api_has_the_same_limits(translator: Translator, wrong: dict[str, object]) -> None:
    with pytest.raises(RegardError) as error:
        translator.translate(["好"], **wrong)  # type: ignore[arg-type]
    assert "\n" not in str(error.value) and len(str(error.value)) < 200


def test_what_is_allowed_works(translator: Translator) -> None:
    plain = translator.translate(["好"])[0].text
    assert translator.translate(["好"], beam=1000, batch_tokens=1)[0].text
    assert translator.translate(["好"], batch_tokens=limits.BATCH)[0].text == plain
    for penalty in ("power:-5", "gnmt:5", "-1", 5):
        assert translator.translate(["好"], length_penalty=penalty)[0].normalized > -1e30


def test_prompts_and_prefixes_of_any_length_are_one_line(translator: Translator, tmp_path: Path) -> None:
    with pytest.raises(RegardError, match=r"input 1: 110,00. tokens, expected at most 16,384"):
        list(decode(translator.model, [[5]], translator.settings, Search(), prompts=[[5] * 110_000]))
    with pytest.raises(RegardError, match=r"source 1: .* subwords are too long to be scored: expected at most 16,384"):
        translator.score(["好" * 40_000], ["good"])
    for name, value in (("forced_prefix", [5] * 110_000), ("start", 10**30)):
        folder = tmp_path / name
        shutil.copytree(translator.path, folder)
        (folder / "manifest.json").unlink()
        text = json.loads((folder / "text.json").read_text("utf-8"))
        (folder / "text.json").write_text(json.dumps({**text, name: value}), "utf-8")
        with pytest.raises(RegardError, match=f"text.json: .*{name}.*"):
            regard.load(str(folder))


def test_an_id_that_is_hidden_twice_is_counted_once(translator: Translator) -> None:
    from dataclasses import replace

    scores = [
        next(decode(translator.model, [[9, 10]], replace(translator.settings, suppressed=ids), Search())).hypotheses
        for ids in ((0, 1), (0, 1, 1, 0, 0))
    ]
    assert scores[0] == scores[1]


def test_memory_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    import torch

    monkeypatch.setattr("regard.cli.params._describe", lambda *_: torch.empty(1 << 50))
    assert main(["params", "base"]) == 2
    assert "out of memory" in capsys.readouterr().err


def test_one_bound_has_one_number() -> None:
    """A model whose text.json or vocabulary one place takes is taken by the others."""
    assert registry.LARGEST["vocabulary"] == limits.VOCABULARY
    assert TextSettings(max_length=limits.LENGTH).max_length == limits.LENGTH
    with pytest.raises(RegardError, match="max_length"):
        TextSettings(max_length=limits.LENGTH + 1)
