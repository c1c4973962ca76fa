"""The model that translates a request is chosen by its language codes and by the language of its text."""

from __future__ import annotations

import unicodedata
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.exceptions import HTTPException

from regard.pipelines import TooMuch
from regard.serve.limits import Limits
from regard.serve.requests import TranslateRequest, candidates, check_options, split


def server(*pairs: tuple[str, str]) -> Any:
    """Translators that translate nothing."""
    return {
        pair: SimpleNamespace(
            pair=pair,
            decoding=SimpleNamespace(beam=4),
            tokenizer=SimpleNamespace(normalize=str.lower),
            parts=lambda texts, most, language: [[] for _ in texts],
        )
        for pair in pairs
    }


def wanted(q: str | list[str], source: str, target: str) -> TranslateRequest:
    return TranslateRequest(q=q, source=source, target=target)


@pytest.mark.parametrize(
    "q, target, pair",
    [
        ("我爱机器学习", "en", ("zh", "en")),
        ("Ich liebe maschinelles Lernen.", "en", ("de", "en")),
        ("I love machine learning.", "zh-CN", ("en", "zh")),
        (["OK", "Wo ist der Bahnhof?"], "en", ("de", "en")),
        ("OK", "zh", ("en", "zh")),
        ("Où est la gare ?", "en", ("zh", "en")),  # none of these: the first that there is
    ],
)
def test_the_source_is_detected_among_what_the_server_has(
    q: str | list[str], target: str, pair: tuple[str, str]
) -> None:
    found = split(wanted(q, "auto", target), server(("zh", "en"), ("de", "en"), ("en", "zh")), Limits())
    translator: Any = found.translator
    assert translator.pair == pair and found.detected is not None
    assert found.detected["language"] in ("zh", "de", "en") and 0 <= found.detected["confidence"] <= 100


@pytest.mark.parametrize(
    "source, target, pair",
    [
        ("zh-TW", "en", ("zh-Hant", "en")),
        ("zh_cn", "EN-us", ("zh", "en")),
        ("en", "zt", ("en", "zh-Hant")),
        ("en", "zh", ("en", "zh")),
        ("pt-BR", "en", ("pt", "en")),
    ],
)
def test_the_model_whose_code_is_nearest_is_taken(source: str, target: str, pair: tuple[str, str]) -> None:
    pairs = server(("zh", "en"), ("zh-Hant", "en"), ("en", "zh"), ("en", "zh-Hant"), ("pt", "en"))
    assert candidates(wanted("", source, target), pairs) == [pair]


@pytest.mark.parametrize("source, target", [("en", "zh-Hant"), ("fr", "zh"), ("en", "en"), ("", "zh"), ("en", "")])
def test_pairs_that_the_server_has_not_are_refused(source: str, target: str) -> None:
    """Traditional characters are not what a model for simplified ones writes."""
    with pytest.raises(HTTPException, match="there is no such pair; this server has en → zh"):
        check_options(wanted("a", source, target), server(("en", "zh")))


def test_a_text_that_normalisation_blows_up_is_refused_before_it_is_split() -> None:
    pairs = server(("zh", "en"))
    pairs["zh", "en"].tokenizer.normalize = lambda text: unicodedata.normalize("NFKC", text)
    pairs["zh", "en"].parts = lambda texts, most: pytest.fail("split")
    with pytest.raises(TooMuch, match="50,000 characters, after normalisation"):
        split(wanted("\ufdfa" * 3_000, "zh", "en"), pairs, Limits())
