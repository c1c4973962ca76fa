"""Text that goes on where another ends, and tokenizers of characters: nothing is put in, nothing is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from regard.errors import RegardError
from regard.text.normalize import normalizer
from regard.text.tokenizer import Tokenizer

LINES = ["First Citizen:\n", "Before we  proceed.\n", "\n", " ▁ odd 你好\n", "last"]
TEXT = st.text(st.sampled_from("abé ▁你好.\n\r\u0301"))


def learnt(kind: str) -> Tokenizer:
    return Tokenizer.train(LINES, kind, 330, character_coverage=1.0, continued=True)


LEARNT = {kind: learnt(kind) for kind in ("bpe", "unigram", "characters")}


@pytest.mark.parametrize("kind", LEARNT)
@given(lines=st.lists(TEXT.map(lambda text: text + "\n"), min_size=1))
def test_lines_are_encoded_as_the_whole_text(kind: str, lines: list[str]) -> None:
    tokenizer = LEARNT[kind]
    first, others = tokenizer.encode_batch(lines[:1]), tokenizer.encode_batch(lines[1:], continued=True)
    ids = [index for row in (*first, *others) for index in row]
    assert ids == tokenizer.encode("".join(lines))
    assert tokenizer.decode(ids) == normalizer(["nfc"])("".join(lines))


def test_characters_have_an_id_each(tmp_path: Path) -> None:
    tokenizer = learnt("characters")
    distinct = sorted(set("".join(LINES).replace(" ", "▁")))
    assert tokenizer.size == 260 + len(distinct)
    assert tokenizer.tokens(range(260, tokenizer.size)) == distinct
    assert tokenizer.tokens(tokenizer.encode("First é")) == [*"First▁", "<0xC3>", "<0xA9>"], "and no ▁ is put before"
    tokenizer.write(tmp_path / "tokenizer.json")
    again = Tokenizer.read(tmp_path / "tokenizer.json", ("nfc",), rows=tokenizer.size)
    assert again.cut is not None and again.encode("".join(LINES)) == tokenizer.encode("".join(LINES))
    inner = again.inner.encode("odd one\n", add_special_tokens=False).ids
    assert again.encode("odd one\n") == inner, "as the library reads its file"


def test_the_commonest_characters_where_there_is_no_room_for_all() -> None:
    few = Tokenizer.train(["aaab bbcd"], "characters", 260 + 3)
    assert few.tokens(range(260, few.size)) == ["a", "b", "▁"]
    assert few.decode(few.encode("a dab")) == "a dab", "the others are bytes"
    with pytest.raises(RegardError, match="no characters"):
        Tokenizer.train([""], "characters", 300)


@pytest.mark.parametrize("kind", ["bpe", "unigram", "characters"])
def test_spaces_come_back_also_where_training_had_none(kind: str) -> None:
    """The bytes of ▁ were decoded as ▁."""
    tokenizer = Tokenizer.train(["你好吗", "世界" * 2000], kind, 300)
    assert tokenizer.decode(tokenizer.encode("hello  wide 世界")) == "hello  wide 世界"


def other_family(**parts: Any) -> Tokenizer:
    """A tokenizer as other projects make them, with bytes for everything."""
    vocabulary = {piece: index for index, piece in enumerate(["<unk>", "▁", *map(chr, range(33, 127)), "\n", "Ġ", "Ċ"])}
    inner = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, [], unk_token="<unk>"))
    for name, part in parts.items():
        setattr(inner, name, part)
    return Tokenizer(inner)


@pytest.mark.parametrize(
    "parts",
    [
        {"pre_tokenizer": tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=True)},
        {"pre_tokenizer": tokenizers.pre_tokenizers.Metaspace(prepend_scheme="always", split=False)},
        {"pre_tokenizer": tokenizers.pre_tokenizers.Metaspace(prepend_scheme="first", split=False)},
        {"normalizer": tokenizers.normalizers.Prepend("▁")},
        {
            "normalizer": tokenizers.normalizers.Sequence(
                [tokenizers.normalizers.Prepend("▁"), tokenizers.normalizers.Replace(" ", "▁")]
            )
        },
    ],
)
def test_what_other_families_put_before_a_text_is_left_out(parts: dict[str, Any]) -> None:
    tokenizer = other_family(**parts)
    begun, goes_on = tokenizer.encode("ab c"), tokenizer.encode_batch(["ab c"], continued=True)[0]
    assert tokenizer.tokens(begun)[0] in "▁Ġ" and goes_on == begun[1:]
    assert tokenizer.encode("ab c") == begun, "the tokenizer itself is unchanged"


def test_a_family_that_puts_nothing_before_a_text() -> None:
    tokenizer = other_family(pre_tokenizer=tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False))
    assert tokenizer.encode_batch(["ab c"], continued=True) == [tokenizer.encode("ab c")]
    assert other_family().encode_batch(["ab"], continued=True) == [other_family().encode("ab")]
