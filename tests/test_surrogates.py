"""Half surrogate pairs are found and mended everywhere by the same two functions."""

from __future__ import annotations

import pytest

from regard.surrogates import has_half, without_halves
from regard.text.normalize import normalizer

HALVES = [
    ("a\ud83db", "a\ufffdb"),
    ("\udc80", "\ufffd"),
    ("\ud83d\ude00", "\U0001f600"),
    ("\ude00\ud83d", "\ufffd\ufffd"),
]


@pytest.mark.parametrize("text", ["", "abc", "爱", "\U0001f600", "\ufffd\ufffe\uffff", "\ue000\ud7ff"])
def test_what_utf_8_can_write_stays(text: str) -> None:
    assert not has_half(text) and without_halves(text) == text == text.encode().decode()


@pytest.mark.parametrize(("text", "expected"), HALVES)
def test_what_utf_8_cannot_write_is_replaced(text: str, expected: str) -> None:
    assert has_half(text) and without_halves(text) == expected == normalizer(())(text)
    with pytest.raises(UnicodeEncodeError):
        text.encode()
