"""A translator's target languages, given beginnings of translations, and longest outputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from regard.config import DecodingConfig
from regard.errors import RegardError
from regard.pipelines import Translator

from .languages import LINES, MARKS, made

TEXTS = LINES[:4]
DECODING = DecodingConfig(beam=2, max_extra=4, no_repeat=False)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=["source", "target"])
def translator(request: pytest.FixtureRequest) -> Translator:
    return Translator(made(language_in=request.param), DECODING)


def test_each_text_goes_into_its_language(translator: Translator) -> None:
    french, german = (translator.translate(TEXTS, language=name) for name in ("fr", "de"))
    assert [one.text for one in french] != [one.text for one in german]
    mixed = translator.translate(TEXTS, language=["fr", "de", "de", "fr"])
    expected = [french[0], german[1], german[2], french[3]]
    assert [one.tokens for one in mixed] == [one.tokens for one in expected]
    # The marks of the language are all that differs.
    settings = translator.settings
    key = "source_before" if settings.language_in == "source" else "start"
    marks = {key: (*getattr(settings, key), *MARKS["fr"]), "languages": {}}
    alone = Translator(made(language_in=settings.language_in, **marks), DECODING)
    assert [one.tokens for one in alone.translate(TEXTS)] == [one.tokens for one in french]


def test_forced_scores_and_alignments_are_of_the_language(translator: Translator) -> None:
    for language in MARKS:
        found = translator.translate(TEXTS, language=language, beam=1, stopping="huggingface", alignments=True)
        targets = [translator.target_tokenizer.decode(translator.target_tokenizer.encode(one.text)) for one in found]
        scored = translator.score(TEXTS, targets, language=language)
        for one, other in zip(found, scored, strict=True):
            assert one.alignment is not None and one.alignment.shape == (len(one.tokens), len(one.source_tokens))
            assert (one.alignment.sum(1) <= 1 + 1e-5).all()
            if one.tokens == other.tokens:  # else the text has other subwords than those that were produced
                # A score at the limit has no end mark; rounding of fp32.
                assert min(abs(one.score - other.score), abs(one.score - sum(other.token_scores[:-1]))) < 1e-3


def test_an_unknown_or_missing_language_is_one_line(translator: Translator) -> None:
    with pytest.raises(RegardError, match="language 'es': this model translates into de, fr"):
        translator.translate(TEXTS, language="es")
    with pytest.raises(RegardError, match="this model translates into several languages: give one of de, fr"):
        translator.translate(TEXTS)
    with pytest.raises(RegardError, match="2 languages and 4 texts: expected one for each"):
        translator.translate(TEXTS, language=["fr", "de"])
    with pytest.raises(RegardError, match="language 'fr': this model translates into de"):
        Translator(made(languages={}, target="de"), DECODING).translate(TEXTS, language="fr")


def test_a_model_with_a_language_of_its_own_needs_none() -> None:
    own = Translator(made(target="fr"), DECODING)
    assert own.languages == ["de", "fr"]
    found = own.translate(TEXTS)
    assert [one.tokens for one in found] == [one.tokens for one in own.translate(TEXTS, language="fr")]


def test_a_prefix_is_continued(translator: Translator) -> None:
    tokenizer = translator.target_tokenizer
    prefixes = ["Two dogs", "", "Deux ", "A man rides a bicycle."]
    found = translator.translate(TEXTS, language="fr", prefix=prefixes, n_best=2, alignments=True)
    free = translator.translate(TEXTS, language="fr", n_best=2)
    assert found[1].tokens == free[1].tokens
    for one, prefix in zip(found, prefixes, strict=True):
        given = tokenizer.tokens(tokenizer.encode(prefix.rstrip()))
        for each in (one, *one.alternatives):
            assert each.text.startswith(prefix.rstrip()) and each.tokens[: len(given)] == given
            assert len(each.tokens) > len(given) or each.text == prefix
        assert one.alignment is not None and len(one.alignment) == len(one.tokens)
    # What the model would say anyway is not changed by being given.
    whole = free[0]
    ids = tokenizer.encode(whole.text)
    if tokenizer.tokens(ids) == whole.tokens:
        again = translator.translate(TEXTS[0], language="fr", prefix=whole.text.split()[0], beam=1)
        assert again[0].text.startswith(whole.text.split()[0])
    everywhere = translator.translate(TEXTS[:2], language="fr", prefix="Two")
    assert all(one.text.startswith("Two") for one in everywhere)


def test_a_prefix_wants_a_text_of_one_part(translator: Translator) -> None:
    with pytest.raises(RegardError, match="text 2: a prefix can be continued where .* this one has 2"):
        translator.translate(["Two dogs", "Two dogs\nA man"], language="fr", prefix="Deux")
    with pytest.raises(RegardError, match="text 1: .* this one has 0"):
        translator.translate(" ", language="fr", prefix="Deux")
    with pytest.raises(RegardError, match="1 prefixes and 2 texts"):
        translator.translate(TEXTS[:2], language="fr", prefix=["a"])


def test_the_longest_output_is_absolute_where_it_is_given(translator: Translator) -> None:
    settings = replace(translator.settings, suppressed=(0, 1, 2, 3))  # it never ends of itself
    endless = Translator(replace(made(), settings=settings), DECODING)
    for most in (1, 7):
        found = endless.translate(TEXTS, language="fr", max_tokens=most, stopping="huggingface")
        assert [len(one.tokens) for one in found] == [most] * len(TEXTS)
    with pytest.raises(RegardError, match="max tokens 0: expected a whole number from 1"):
        endless.translate(TEXTS, language="fr", max_tokens=0)
