from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regard.errors import RegardError
from regard.text.normalize import KNOWN, normalizer


def test_each_step() -> None:
    assert normalizer(["nfc"])("e\u0301") == "é"
    assert normalizer(["nfkc"])("Ｒ①ﬁ") == "R1fi"
    assert normalizer(["lower"])("ÄÖ A") == "äö a"
    assert normalizer(["simplified"])("我愛機器學習，這魚像三文魚") == "我爱机器学习，这鱼像三文鱼"
    assert normalizer([])("Ａ\r\n ") == "Ａ\r\n "


def test_steps_are_taken_in_order() -> None:
    assert normalizer(["lower", "nfkc"])("Ａ") == "a"
    assert normalizer(["nfkc", "lower", "simplified"])("Ｒ機") == "r机"


@given(st.text(st.characters(exclude_categories=()), max_size=20))
def test_what_comes_out_can_be_written(text: str) -> None:
    for name in KNOWN:
        normalizer([name])(text).encode()


@given(st.text(max_size=20), st.sampled_from(["nfc", "nfkc", "simplified"]))
def test_twice_is_once(text: str, name: str) -> None:
    once = normalizer([name])(text)
    assert normalizer([name])(once) == once


def test_an_unknown_step_is_an_error() -> None:
    with pytest.raises(RegardError, match=r"unknown step 'simplify'.*did you mean 'simplified'"):
        normalizer(["simplify"])
