"""Subword dropout: repeatable, lossless, as the paper says, and quick."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regard.errors import RegardError
from regard.text.dropout import SubwordDropout
from regard.text.tokenizer import Tokenizer

LINES = ["the cat sat on the mat and the other cats sat there too", "我爱机器学习，机器学习爱我", "naïve ▁ café 12"] * 5
TOKENIZERS = {kind: Tokenizer.train(LINES, kind, 400, ("nfc",), 1.0) for kind in ("bpe", "unigram")}
KINDS = pytest.mark.parametrize("kind", ["bpe", "unigram"])


@KINDS
@given(
    text=st.one_of(st.text(max_size=20), st.sampled_from([*LINES, "cat▁cat", "x" * 100])),
    epoch=st.integers(0, 1000),
    index=st.integers(0, 10**7),
    seed=st.integers(0, 2**70),
)
def test_nothing_is_lost_and_nothing_depends_on_what_came_before(
    kind: str, text: str, epoch: int, index: int, seed: int
) -> None:
    tokenizer = TOKENIZERS[kind]
    dropout = SubwordDropout(tokenizer, 0.3, seed)
    ids = dropout.encode(text, epoch, index)
    assert tokenizer.decode(ids) == tokenizer.normalize(text)
    other = SubwordDropout(tokenizer, 0.3, seed)
    for line in LINES[:3]:
        other.encode(line, 0, 0)
    assert other.encode(text, epoch, index) == ids


@KINDS
def test_no_dropout_is_the_tokenizer(kind: str) -> None:
    dropout = SubwordDropout(TOKENIZERS[kind], 0.0, 1)
    for text in [*LINES, "unseen wörds 学学习 🙂 the  mat"]:
        assert dropout.encode(text, 3, 4) == TOKENIZERS[kind].encode(text)


@KINDS
def test_epochs_and_sentences_differ_and_seeds_too(kind: str) -> None:
    cut = {
        (seed, epoch, index): tuple(SubwordDropout(TOKENIZERS[kind], 0.3, seed).encode(LINES[0], epoch, index))
        for seed in range(3)
        for epoch in range(3)
        for index in range(3)
    }
    assert len(set(cut.values())) > 20


@KINDS
def test_another_process_gives_the_same(kind: str, tmp_path: Path) -> None:
    TOKENIZERS[kind].write(tmp_path / "tokenizer.json")
    script = (
        "import sys; from pathlib import Path; from regard.text.tokenizer import Tokenizer\n"
        "from regard.text.dropout import SubwordDropout\n"
        "dropout = SubwordDropout(Tokenizer.read(Path(sys.argv[1])), 0.5, 7)\n"
        "print([dropout.encode('the cats sat there', epoch, 5) for epoch in range(9)])"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "tokenizer.json")]
    printed = [subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(2)]
    dropout = SubwordDropout(TOKENIZERS[kind], 0.5, 7)
    expected = f"{[dropout.encode('the cats sat there', epoch, 5) for epoch in range(9)]}\n"
    assert printed == [expected, expected]


def test_merges_are_left_out_as_often_as_asked() -> None:
    """With merges ab, abc of the word abc: abc (1 - p)², ab c p(1 - p), and a b c with p — the paper's algorithm."""
    tokenizer = Tokenizer.train(["abc"] * 9 + ["ab"] * 9, "bpe", 262 + 4, (), 1.0)
    merges = [tuple(merge) for merge in tokenizer.description["model"]["merges"]]
    assert ("▁", "a") in merges or ("a", "b") in merges
    probability, trials = 0.2, 4000
    counts: Counter[tuple[str, ...]] = Counter()
    for seed in range(trials // 40):
        dropout = SubwordDropout(tokenizer, probability, seed)
        for index in range(40):
            counts[tuple(tokenizer.tokens(dropout.encode("abc", 0, index)))] += 1
    # Nothing merged: each of the word's merges that could be first was left out once.
    start = [merge for merge in merges if all(len(part) == 1 for part in merge)]
    possible = sum(pair in start for pair in [("▁", "a"), ("a", "b"), ("b", "c")])
    assert abs(counts[("▁", "a", "b", "c")] / trials - probability**possible) < 0.03
    assert counts[tuple(tokenizer.tokens(tokenizer.encode("abc")))] > trials * (1 - probability) ** 4


def test_wrong_use_is_an_error() -> None:
    with pytest.raises(RegardError, match="subword_dropout = 1: expected"):
        SubwordDropout(TOKENIZERS["bpe"], 1, 0)
    import tokenizers

    foreign = Tokenizer(tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, "a")))
    with pytest.raises(RegardError, match="that regard trained"):
        SubwordDropout(foreign, 0.1, 0)


def test_dropout_keeps_up_with_training(corpus: Callable[[str], Path]) -> None:
    """20,000 sentences of real text a second on one core, once the words' pools are filled."""
    folder = corpus("multi30k")
    lines = [line for side in ("en", "de") for line in (folder / f"train.{side}").read_text().split("\n")[:2000]]
    dropout = SubwordDropout(Tokenizer.train(lines, "bpe", 3000), 0.1, 1)
    rates = []
    for _ in range(4):
        start = time.process_time()
        for index, line in enumerate(lines):
            dropout.encode(line, 0, index)
        rates.append(len(lines) / (time.process_time() - start))
    assert max(rates) > 20_000, rates
