"""Words with their tags, and the entities that they make: characters of the text, also where it is normalised."""

from __future__ import annotations

import random

import pytest
import torch

from regard.errors import RegardError
from regard.nn.sequences import Tokens
from regard.pipelines.tagger import TaggedWord, Tagger, entities, windows
from regard.pipelines.word_ids import ids_of_text, ids_of_words
from regard.text.tokenizer import Tokenizer

from .conftest import LABELS, Make


def tags_by_hand(tagger: Tagger, ids: list[int]) -> list[tuple[str, float]]:
    """The best tag of each id and its probability."""
    row = [2, *ids, 3]
    with torch.inference_mode():
        scores = tagger.model.label_scores(Tokens(torch.tensor([row]), torch.tensor([len(row)])))[0, 1:-1].softmax(-1)
    best = scores.max(-1)
    return [(LABELS["tagging"][i], p) for i, p in zip(best.indices.tolist(), best.values.tolist(), strict=True)]


def test_a_words_tag_is_that_of_its_first_subword(make: Make) -> None:
    tagger = Tagger(make("tagging"))
    text = "  The Capitals, of\tParis!我爱"
    [found, empty] = tagger.tag([text, " "])
    assert [one.word for one in found.words] == ["The", "Capitals", ",", "of", "Paris", "!", "我", "爱"]
    expected = tags_by_hand(tagger, tagger.tokenizer.encode(text))
    assert tagger.tokenizer.tokens(tagger.tokenizer.encode(text))[2] == "##s"
    expected.pop(2)
    assert [one.tag for one in found.words] == [tag for tag, _ in expected]
    assert [one.probability for one in found.words] == pytest.approx([p for _, p in expected], abs=1e-5)
    assert all(text[one.start : one.end] == one.word for one in found.words)
    assert empty.words == empty.entities == ()


def test_given_words_keep_their_number(make: Make, own: Tokenizer) -> None:
    words = ["Paris,", "我爱", "walks", "\u200b", "zzz", "is"]
    for tagger in (Tagger(make("tagging")), Tagger(make("tagging", own, length=64))):
        [found] = tagger.tag([words])
        assert [one.word for one in found.words] == words
        joined = " ".join(words)
        assert all(joined[one.start : one.end] == one.word for one in found.words)
    assert Tagger(make("tagging")).tag([words])[0].words[3][1:3] == ("O", 0.0)  # BERT's tokenizer leaves it out
    assert Tagger(make("tagging")).tag([[]])[0].words == ()


def test_regards_own_subwords_and_the_characters_of_words(own: Tokenizer) -> None:
    text = "  The cafe\u0301, 我爱 ▁ 100\u00a0İx ｶ\u3099!"
    found = ids_of_text(own, text)
    words = [text[start:end] for start, end in found.words]
    assert words == ["The", "cafe\u0301", ",", "我", "爱", "▁", "1", "0", "0", "İx", "ｶ\u3099", "!"]
    assert own.decode(found.ids) == own.normalize(text)
    assert len(found.owner) == len(found.ids) and set(found.owner) == {-1, *range(len(words))}
    assert ids_of_text(own, "the capital of france").ids == own.encode("the capital of france")
    assert ids_of_words(own, ["the", "capital"]).ids == own.encode("the capital")


def test_the_characters_of_random_texts(own: Tokenizer, wordpiece: Tokenizer) -> None:
    draw = random.Random(7)
    signs = [*"a é我▁\t1.\0Ⅷﬁİ", "e\u0301", "\u1112\u1161\u11ab", "\U0001f600"]
    for tokenizer in (own, wordpiece):
        for _ in range(150):
            text = "".join(draw.choices(signs, k=draw.randint(0, 12)))
            found = ids_of_text(tokenizer, text)
            ends = [0, *(place for word in found.words for place in word)]
            assert ends == sorted(ends), repr(text)
            assert all(text[start:end].strip() for start, end in found.words), repr(text)


def test_a_long_text_is_read_in_overlapping_parts(make: Make) -> None:
    tagger = Tagger(make("tagging"))
    said: list[tuple[int, str]] = []
    words = [*"abc", "paris", "london", "the"] * 6
    [found] = tagger.tag([words], warn=lambda number, what: said.append((number, what)))
    assert [one.word for one in found.words] == words
    assert said == [(0, "has 36 subwords, and the model reads 14: 5 parts overlap")]
    ids = tagger.tokenizer.encode(" ".join(words))
    for start, first, last in windows(36, 14):
        expected = tags_by_hand(tagger, ids[start : start + 14])[first - start : last - start]
        assert [one.tag for one in found.words[first:last]] == [tag for tag, _ in expected]


def test_windows_cover_everything_once() -> None:
    for longest in (1, 2, 3, 14):
        for length in range(50):
            found = windows(length, longest)
            assert [i for _, first, last in found for i in range(first, last)] == list(range(length))
            assert all(start <= first and last <= start + longest for start, first, last in found)
            assert all(start + longest <= max(length, longest) for start, _, _ in found)


def test_entities_of_iob2() -> None:
    def of(*tags: str) -> list[tuple[str, str]]:
        words = [TaggedWord(f"w{n}", tag, 0.5, 3 * n, 3 * n + 2) for n, tag in enumerate(tags)]
        text = " ".join(word.word for word in words)
        return [(one.type, one.text) for one in entities(words, text)]

    assert of("B-PER", "I-PER", "O", "B-LOC") == [("PER", "w0 w1"), ("LOC", "w3")]
    assert of("B-PER", "B-PER", "I-LOC", "I-LOC") == [("PER", "w0"), ("PER", "w1"), ("LOC", "w2 w3")]
    assert of("I-PER", "O", "I-PER") == [("PER", "w0"), ("PER", "w2")]
    assert of("NOUN", "NOUN", "VERB", "O") == [("NOUN", "w0 w1"), ("VERB", "w2")]
    assert of() == of("O") == []


def test_models_of_other_tasks_are_refused(make: Make) -> None:
    for texts in ([None], [["a", None]]):
        with pytest.raises(RegardError, match=r"text 1 is .*: expected a text, or a list of words"):
            Tagger(make("tagging")).tag(texts)  # type: ignore[list-item]
    with pytest.raises(RegardError, match="task is masked: it does not tag words"):
        Tagger(make("masked"))
