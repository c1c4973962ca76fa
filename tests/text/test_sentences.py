"""Splitting long text: nothing lost, everything fits, at the best places, in linear time."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regard.text.sentences import sentences, split_long

SIGNS = st.text(st.sampled_from(list('ab 。，.!?,;\n"”’…é学1\u0301\u200d👍🏽🇩🇪')), max_size=80)


def fits(limit: int):
    return lambda part: len(part) <= limit


@given(text=st.one_of(SIGNS, st.text(max_size=60)), limit=st.integers(1, 30))
def test_nothing_is_lost_and_every_part_fits(text: str, limit: int) -> None:
    parts = split_long(text, fits(limit))
    assert "".join(parts) == text
    assert all(fits(limit)(part) for part in parts)
    assert all(parts) or text == ""
    assert "".join(sentences(text)) == text


@given(text=SIGNS)
def test_what_can_never_fit_comes_out_all_the_same(text: str) -> None:
    assert "".join(split_long(text, lambda part: not part)) == text


@pytest.mark.parametrize(
    ("limit", "text", "parts"),
    [
        (50, "Short. Text.", ["Short. Text."]),
        (25, "One is here. Two is there! Is it?", ["One is here. ", "Two is there! ", "Is it?"]),
        (
            30,
            "Mr. Smith met Dr. Who at 3.30 p.m. today. He left.",
            ["Mr. Smith met Dr. Who at 3.30 ", "p.m. today. ", "He left."],
        ),
        (12, "“我也是。”他说。你呢？我很好！", ["“我也是。”", "他说。", "你呢？", "我很好！"]),
        (12, "今天天气很好，我们去公园玩吧，你觉得怎么样", ["今天天气很好，", "我们去公园玩吧，", "你觉得怎么样"]),
        (20, "first part, second part; third", ["first part, ", "second part; third"]),
        (8, "1,000 2,000 3,000", ["1,000 ", "2,000 ", "3,000"]),
        (7, "aaa bbb ccc", ["aaa ", "bbb ccc"]),
        (4, "abcdefghij", ["abcd", "efgh", "ij"]),
        (12, "line one\nline two", ["line one\n", "line two"]),
        (15, "Wait... what is it? No.", ["Wait... what ", "is it? ", "No."]),
    ],
)
def test_where_text_is_cut(limit: int, text: str, parts: list[str]) -> None:
    assert split_long(text, fits(limit)) == parts


def test_a_character_keeps_its_marks_and_its_tone() -> None:
    assert split_long("xe\u0301e\u0301", fits(2)) == ["x", "e\u0301", "e\u0301"]
    assert split_long("👍🏽👍🏽", fits(3)) == ["👍🏽", "👍🏽"]
    assert split_long("a🇩🇪", fits(2)) == ["a", "🇩🇪"]
    assert len(split_long("e" + "\u0301" * 1000, fits(10))) < 200  # where a mark must be parted, it is


@pytest.mark.parametrize(
    "unit", ["a", "ab ", "学", "学，", "a. ", ". A", "a, ", "\u0301", " ", ".", "\n", '"', "?)", "1,"], ids=repr
)
def test_a_megabyte_is_split_in_seconds(unit: str) -> None:
    text = unit * (10**6 // len(unit.encode()))
    start, seen = time.process_time(), 0

    def few(part: str) -> bool:
        nonlocal seen
        seen += len(part)
        return len(part) <= 120

    assert "".join(split_long(text, few)) == text
    assert time.process_time() - start < 15
    assert seen < 60 * len(text)  # what is looked at in all: linear but for a logarithm
