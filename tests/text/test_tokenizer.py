"""Subwords: nothing is lost, nothing special can be typed, and the same text gives the same vocabulary."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from regard.errors import RegardError
from regard.text.normalize import normalizer
from regard.text.specials import BYTES, SPECIALS
from regard.text.tokenizer import Tokenizer
from regard.text.words import BAR, ours, word_patterns

LINES = [
    "the cat sat on the mat .",
    "The dogs' house, the cat's house; 1999 houses!",
    "zwei junge weiße Männer sind im Freien",
    "我爱机器学习。你也爱机器学习吗？",
    "“機器”學習 is machine learning",
    "ありがとう ございます",
] * 3
KINDS = ("bpe", "unigram")
CACHE: dict[str, Tokenizer] = {}


def tokenizer(kind: str) -> Tokenizer:
    if kind not in CACHE:
        CACHE[kind] = Tokenizer.train(LINES, kind, 420, ("nfc",), 0.99)
    return CACHE[kind]


PIECES = (
    " ",
    "  ",
    "▁",
    "<s>",
    "</s>",
    "<pad>",
    "<unk>",
    "<0x41>",
    "0",
    "1999",
    "the",
    " cat",
    "“",
    "。",
    "é",
    "e\u0301",
)
SIGNS = (
    "学",
    "の",
    "😀",
    "👍🏽",
    "𝐀",
    "\0",
    "\r",
    "\n",
    "\u2028",
    "\u3000",
    "\u200d",
    "\ufdd0",
    "\u202e",
    "\U00020000",
    "\U0010ffff",
)
AWKWARD = st.sampled_from((*PIECES, *SIGNS))
TEXTS = st.one_of(st.text(max_size=30), st.lists(AWKWARD, max_size=12).map("".join))


@pytest.mark.parametrize("kind", KINDS)
@given(text=TEXTS)
def test_decoding_gives_back_every_text(kind: str, text: str) -> None:
    subwords = tokenizer(kind)
    ids = subwords.encode(text)
    assert subwords.decode(ids) == normalizer(["nfc"])(text)
    assert not set(ids) & subwords.special_ids
    assert len(subwords.tokens(ids)) == len(ids)


@pytest.mark.parametrize("kind", KINDS)
@given(texts=st.lists(TEXTS, max_size=5))
def test_the_library_reads_the_json_as_we_do(kind: str, texts: list[str]) -> None:
    """Words are cut in Python for speed; tokenizer.json alone must say the same, for whoever else reads it."""
    subwords = tokenizer(kind)
    texts = [text for text in texts if "▁" not in text]  # which is ours alone to keep
    theirs = subwords.inner.encode_batch([subwords.normalize(text) for text in texts], add_special_tokens=False)
    assert subwords.encode_batch(texts) == [row.ids for row in theirs]


@given(text=st.text(max_size=40))
def test_words_joined_are_the_text(text: str) -> None:
    cut = tokenizer("bpe").cut
    assert cut is not None
    words = cut(text)
    joined = "".join("\ue000" if word == BAR else word.replace("▁", " ") for word in words)
    assert joined.replace("\ue000", "▁") in (text, " " + text) or "\ue000" in text


def test_patterns_of_a_file_are_trusted_only_in_our_shape() -> None:
    """A model may come from anywhere: a pattern that could run forever must not reach Python's ``re``."""
    word, start = word_patterns()
    assert ours(word, start)
    assert ours("▁?[^▁\\x20-\\x2f。]+|[一-龥]+|[▁\\x20-\\x2f。]", "\\A(?=[^一-龥。])")
    for other in ("(a+)+$", word + "|(a|a)*b", word.replace("+|", "+)*|", 1), "", word[:-1] + "])*"):
        assert not ours(other, start)
    assert not ours(word, "\\A(?=(a*)*[^一])")
    hostile = copy.deepcopy(tokenizer("bpe").description)
    hostile["pre_tokenizer"]["pattern"]["Regex"] = "(x+x+)+y"
    foreign = Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(hostile)))
    assert foreign.cut is None


@pytest.mark.parametrize("kind", KINDS)
def test_first_ids_are_the_special_tokens_and_bytes(kind: str) -> None:
    subwords = tokenizer(kind)
    assert subwords.tokens(range(260)) == [*SPECIALS, *BYTES]
    assert subwords.size <= 420
    assert subwords.decode([2, *subwords.encode("cat"), 3, 0, 0]) == "cat"
    assert subwords.decode([]) == ""


def test_a_word_is_the_same_piece_wherever_it_stands() -> None:
    subwords = tokenizer("bpe")
    assert subwords.tokens(subwords.encode("the cat the")) == ["▁the", "▁cat", "▁the"]
    assert subwords.tokens(subwords.encode(" the")) == ["▁", "▁the"]


def test_chinese_needs_no_segmenter_and_digits_stand_alone() -> None:
    subwords = tokenizer("unigram")
    pieces = subwords.tokens(subwords.encode("我爱机器学习。1999"))
    assert "".join(pieces) == "我爱机器学习。1999"
    assert len(pieces) < 10 + 1 and "。" in pieces
    assert [piece for piece in pieces if piece.isdecimal()] == list("1999")


def test_rare_characters_become_bytes() -> None:
    subwords = Tokenizer.train(["常常常常常常常常常見"] * 4, "bpe", 262, (), 0.9)
    assert subwords.tokens(subwords.encode("見")) == ["<0xE8>", "<0xA6>", "<0x8B>"]
    assert subwords.tokens(subwords.encode("常")) == ["常"]


def test_half_surrogates_become_replacement_characters() -> None:
    assert tokenizer("bpe").decode(tokenizer("bpe").encode("a\ud83db")) == "a\ufffdb"
    assert tokenizer("bpe").decode(tokenizer("bpe").encode("\ud83d\ude00")) == "😀"


def test_written_and_read_is_the_same(tmp_path: Path) -> None:
    for kind in KINDS:
        path = tmp_path / f"{kind}.json"
        tokenizer(kind).write(path)
        again = Tokenizer.read(path, ("nfc",))
        assert again.fingerprint == tokenizer(kind).fingerprint
        assert again.encode_batch(LINES) == tokenizer(kind).encode_batch(LINES)
        again.write(tmp_path / "again.json")
        assert (tmp_path / "again.json").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_learn_byte_identical_vocabularies(kind: str, tmp_path: Path) -> None:
    """The library's own trainers iterate over hash tables that are seeded anew in each process."""
    text = tmp_path / "text"
    text.write_text("\n".join(LINES + [f"word{i % 37} more{i % 11} 字{chr(0x4E00 + i % 50)}" for i in range(300)]))
    script = (
        "import sys; from pathlib import Path; from regard.text.tokenizer import Tokenizer\n"
        "lines = Path(sys.argv[1]).read_text().split('\\n')\n"
        "Tokenizer.train(lines, sys.argv[2], 600, ('nfc',), 0.98).write(Path(sys.argv[3]))"
    )
    for number in range(3):
        command = [sys.executable, "-c", script, str(text), kind, str(tmp_path / f"{number}.json")]
        subprocess.run(command, check=True)
    first, *others = ((tmp_path / f"{number}.json").read_bytes() for number in range(3))
    assert all(other == first for other in others)


def test_the_order_of_lines_does_not_matter() -> None:
    for kind in KINDS:
        assert Tokenizer.train(LINES[::-1], kind, 420, ("nfc",), 0.99).fingerprint == tokenizer(kind).fingerprint


def test_a_vocabulary_that_is_too_small_says_how_large_it_must_be() -> None:
    with pytest.raises(RegardError, match=r"data.vocabulary = 265 is too small.* need \d+; raise it or lower"):
        Tokenizer.train(LINES, "bpe", 265)
    with pytest.raises(RegardError, match="no characters"):
        Tokenizer.train([], "bpe", 300)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"version": "1.0", "model": {"type": "BPE"}}', b"[" * 9999])
def test_a_damaged_file_is_one_error(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(RegardError, match=r"tokenizer\.json: (not valid JSON|expected the JSON|.vocab. of)"):
        Tokenizer.read(path)
    with pytest.raises(RegardError, match="no such file"):
        Tokenizer.read(tmp_path / "none.json")


def test_a_missing_id_is_an_error() -> None:
    for index in (-1, 10**6):
        with pytest.raises(RegardError, match="not in the vocabulary"):
            tokenizer("bpe").tokens([index])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "text", ["a" * 10**6, "学" * 300_000, "ab " * 300_000, "\u0301" * 10**5], ids=["a", "学", "ab", "mark"]
)
def test_a_megabyte_takes_seconds(kind: str, text: str) -> None:
    start = time.process_time()
    assert tokenizer(kind).encode(text)
    assert time.process_time() - start < 10


@pytest.mark.parametrize("kind", KINDS)
def test_a_real_corpus_comes_back_and_takes_about_a_second(kind: str, corpus: Callable[[str], Path]) -> None:
    folder = corpus("tatoeba-zh-en")
    lines = [line for side in ("zh", "en") for line in (folder / f"train.{side}").read_text().split("\n")[:-1]]
    subwords = Tokenizer.train(lines[::5], kind, 4000)
    start = time.process_time()
    rows = subwords.encode_batch(lines)
    seconds = time.process_time() - start
    assert len(lines) == 50_150
    assert seconds < 4  # 0.4 s on an idle core; tests share theirs
    assert [subwords.decode(row) for row in rows[::7]] == [subwords.normalize(line) for line in lines[::7]]


def test_unigram_vocabularies_are_no_worse_than_those_of_the_library(corpus: Callable[[str], Path]) -> None:
    """Our own trainer against theirs on the same words: as few pieces, within one in a hundred."""
    from regard.text.learn import count_words

    lines = (corpus("tatoeba-zh-en") / "train.en").read_text().split("\n")[:6000]
    ours = Tokenizer.train(lines, "unigram", 1500, (), 1.0)
    theirs = tokenizers.Tokenizer(tokenizers.models.Unigram())
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.CharDelimiterSplit("\n")
    words = count_words(lines)
    trainer = tokenizers.trainers.UnigramTrainer(vocab_size=1500 - 259, show_progress=False, unk_token="<unk>")
    theirs.train_from_iterator(("\n".join([word] * times) for word, times in words.items()), trainer)
    count = sum(len(ours.encode_word(word)) * times for word, times in words.items())
    other = sum(len(theirs.model.tokenize(word)) * times for word, times in words.items())
    assert count < 1.01 * other
