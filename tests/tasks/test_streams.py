"""Texts in blocks: a validation predicts every token once; each epoch cuts and hides anew, and is repeated."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regard.data.batch import IGNORED
from regard.errors import RegardError
from regard.tasks.language_model import Blocks
from regard.tasks.masked import SHARE, MaskedBlocks
from regard.text.settings import TextSettings

SETTINGS = TextSettings(start=(), ends=(), source_before=(2,), source_after=(3,), mask=4000, max_length=20)


def stream(length: int) -> Any:
    """A corpus whose tokens are their places, from 5 on."""
    return SimpleNamespace(
        files=["text"], stream=np.arange(5, 5 + length), where_in_stream=lambda place: f"text:{place + 1}"
    )


@given(length=st.integers(2, 200), size=st.integers(1, 70))
def test_a_validation_predicts_every_token_once(length: int, size: int) -> None:
    blocks = Blocks(stream(length), size)
    batch = blocks.batch(np.arange(len(blocks.targets)), 0)
    labels = batch.labels[batch.labels != IGNORED]
    assert labels.tolist() == list(range(6, 5 + length)) and batch.target_tokens == len(labels)
    inputs = [row[:n].tolist() for row, n in zip(batch.target.ids, batch.target.lengths, strict=True)]
    assert [token for row in inputs for token in row] == list(range(5, 4 + length))
    assert blocks.targets.tolist() == batch.target.lengths.tolist()


@given(length=st.integers(2, 200), size=st.integers(1, 70), epoch=st.integers(0, 5))
def test_training_blocks_lie_inside_the_text_and_do_not_overlap(length: int, size: int, epoch: int) -> None:
    blocks = Blocks(stream(length), size, seed=1)
    batch = blocks.batch(np.arange(len(blocks.targets)), epoch)
    labels = batch.labels[batch.labels != IGNORED].tolist()
    assert labels == list(range(labels[0], labels[0] + len(labels))) and labels[-1] < 5 + length
    assert batch.target_tokens == len(labels) == blocks.targets.sum()
    assert len(labels) > length - 1 - 2 * size or len(blocks.targets) == 1


def test_epochs_cut_elsewhere_and_are_repeated() -> None:
    blocks, again = Blocks(stream(1000), 10, seed=1), Blocks(stream(1000), 10, seed=1)
    firsts = [blocks.first(3, epoch) for epoch in range(30)]
    assert len(set(firsts)) > 5 and firsts == [again.first(3, epoch) for epoch in range(30)]
    assert blocks.where(3, 7) == f"text:{blocks.first(3, 7) + 1}"


def test_a_text_of_one_token_is_an_error() -> None:
    with pytest.raises(RegardError, match="text: a text of 1 token: expected two or more"):
        Blocks(stream(1), 10)


def test_hidden_tokens() -> None:
    examples = MaskedBlocks(stream(2001), SETTINGS, 3000, seed=1, training=True)
    numbers = np.arange(len(examples.targets))
    batch = examples.batch(numbers, epoch=3)
    assert batch.target.ids[:, 0].eq(2).all(), "the mark before"
    assert all(row[n - 1] == 3 for row, n in zip(batch.target.ids, batch.target.lengths, strict=True))
    wanted = batch.labels != IGNORED
    assert wanted.sum() == batch.target_tokens == examples.targets.sum()
    assert (wanted.sum(1) == round(SHARE * 20)).all()
    assert not wanted[:, 0].any() and not wanted[:, -1].any(), "marks are never hidden"
    hidden = batch.target.ids[wanted]
    shares = [float((hidden == 4000).float().mean()), float((hidden == batch.labels[wanted]).float().mean())]
    assert shares == pytest.approx([0.8, 0.1], abs=0.06)
    assert not batch.target.ids[~wanted].eq(4000).any()
    again = MaskedBlocks(stream(2001), SETTINGS, 3000, seed=1, training=True).batch(numbers, epoch=3)
    assert again.target.ids.equal(batch.target.ids) and again.labels.equal(batch.labels)
    assert not examples.batch(numbers, epoch=4).labels.equal(batch.labels)
    alone = examples.batch(numbers[4:5], epoch=3)
    assert alone.target.ids[0].equal(batch.target.ids[4]), "what is hidden does not depend on the batch"
