"""Marks stand where a model was taught to see them, and only text/marks.py puts them there."""

from __future__ import annotations

import pytest

from regard.errors import RegardError
from regard.text.marks import segment_ids, source_ids, target_ids, target_start
from regard.text.settings import TextSettings

PAPER = TextSettings(start=(2,), ends=(3,), source_after=(3,))
BERT = TextSettings(start=(), ends=(), source_before=(101,), source_after=(102,), pair_between=(102,), segments=True)
NLLB = TextSettings(
    start=(2,), ends=(2,), source_before=(20,), source_after=(2,), languages={"fr": (30,)}, language_in="target"
)
OPUS = TextSettings(start=(0,), ends=(1,), source_after=(1,), languages={"fr": (30,), "de": (31, 32)})


def test_a_source_has_its_marks() -> None:
    assert source_ids(PAPER, [7, 8]) == [7, 8, 3]
    assert source_ids(NLLB, [7], language="fr") == [20, 7, 2]
    assert source_ids(OPUS, [7], language="de") == [31, 32, 7, 1] and source_ids(OPUS, [7]) == [7, 1]
    assert source_ids(BERT, [7, 8], [9]) == [101, 7, 8, 102, 9, 102]


def test_the_second_text_of_a_pair_has_segment_1() -> None:
    assert segment_ids(BERT, [7, 8], [9]) == [0, 0, 0, 0, 1, 1]
    assert segment_ids(BERT, [7, 8]) == [0, 0, 0, 0]
    assert segment_ids(PAPER, [7, 8], [9]) == [0] * len(source_ids(PAPER, [7, 8], [9]))
    assert len(segment_ids(OPUS, [7], language="de")) == len(source_ids(OPUS, [7], language="de"))


def test_a_target_begins_and_ends_and_given_tokens_have_no_loss() -> None:
    assert target_ids(PAPER, [7, 8]) == ([2, 7, 8, 3], 0)
    assert target_ids(PAPER, [7, 8], [5, 6], ended=False) == ([2, 5, 6, 7, 8], 2)
    assert target_start(NLLB, "fr") == [2, 30]
    assert target_ids(NLLB, [7], [5], "fr") == ([2, 30, 5, 7, 2], 2)
    assert target_ids(BERT, [7, 8]) == ([7, 8], 0)  # neither start nor end
    assert target_ids(TextSettings(ends=(3, 4)), [7]) == ([2, 7, 3], 0)  # the first end is the one that is written


def test_an_unknown_language_lists_the_known_ones() -> None:
    with pytest.raises(RegardError, match="language 'dee': this model translates into de, fr — did you mean 'de'"):
        source_ids(OPUS, [7], language="dee")
    with pytest.raises(RegardError, match="language 'fr': this model translates into en"):
        target_start(TextSettings(target="en"), "fr")
    assert target_start(TextSettings(target="en"), "en") == [2]
