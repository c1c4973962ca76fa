"""Shortlists: what is not listed for a sentence is not in its vocabulary, and nothing else changes."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from toy import Toy, ToySettings, by_hand, sentences

from regard.decoding.engine import decode
from regard.decoding.search import Search
from regard.decoding.shortlist import Shortlist, learn
from regard.directory import load
from regard.errors import RegardError

SETTINGS = ToySettings()
EVERYTHING = Shortlist(np.arange(40, dtype=np.int32), np.zeros((40, 1), np.int32), b"")
SOME = Shortlist(
    np.array([*SETTINGS.ends, 4, 5], np.int32),
    np.random.default_rng(1).integers(0, 40, (40, 3), dtype=np.int32),
    b"",
)


class Masked(Toy):
    """A toy whose vocabulary is what a sentence's list allows."""

    def __init__(self, allowed: Tensor) -> None:
        super().__init__(ending=1.0)
        self.allowed = allowed

    def logits(self, hidden: Tensor, candidates: Tensor | None = None) -> Tensor:
        return super().logits(hidden).masked_fill(~self.allowed, -torch.inf)

    def output_table(self) -> tuple[Tensor, Tensor]:  # as its own logits are made
        return self.sharpness * self.table, self.ending


@pytest.mark.parametrize("search", [Search(beam=1, max_extra=9), Search(beam=4, n_best=2, max_extra=9)])
def test_a_search_with_a_list_is_the_search_over_listed_tokens(search: Search) -> None:
    inputs = sentences(60, seed=2)
    allowed = SOME.allowed(inputs, 40)
    allowed[:, list(SETTINGS.suppressed)] = False
    model = Masked(torch.ones(40, dtype=torch.bool))
    found = list(decode(model, inputs, SETTINGS, search, batch_tokens=200, shortlist=SOME))
    for source, row, result in zip(inputs, allowed, found, strict=True):
        expected = by_hand(Masked(row), source, SETTINGS, search)[: search.n_best]
        assert [one.ids for one in result.hypotheses] == [ids for ids, _, _ in expected]
        for one, (_, score, _) in zip(result.hypotheses, expected, strict=True):
            assert one.score == pytest.approx(score, abs=1e-4)  # fp32, products of other sizes


@pytest.mark.parametrize("search", [Search(beam=1), Search(beam=5, n_best=5), Search(beam=3, no_repeat_ngram=2)])
def test_a_list_of_everything_changes_nothing(search: Search) -> None:
    model, settings = Masked(torch.ones(40, dtype=torch.bool)), ToySettings(suppressed=())
    plain = list(decode(model, sentences(40), settings, search, batch_tokens=300))
    listed = list(decode(model, sentences(40), settings, search, batch_tokens=300, shortlist=EVERYTHING))
    for one, other in zip(plain, listed, strict=True):
        assert [x.ids for x in one.hypotheses] == [x.ids for x in other.hypotheses]
        assert [x.score for x in one.hypotheses] == pytest.approx([x.score for x in other.hypotheses], abs=1e-4)


def test_no_ngram_twice_among_what_is_listed() -> None:
    model = Masked(torch.ones(40, dtype=torch.bool))
    for result in decode(
        model, sentences(40), SETTINGS, Search(beam=2, no_repeat_ngram=2, max_extra=20), shortlist=SOME
    ):
        ids = result.hypotheses[0].ids
        pairs = list(pairwise(ids))
        assert len(set(pairs)) == len(pairs)


def test_a_learnt_list_has_the_end_mark_names_and_translations(tmp_path: Path) -> None:
    loaded = load("zh-en")
    texts = [("机器。", "A machine."), ("学习。", "Learning."), ("学习机器。", "Learning machine.")] * 4
    sources = loaded.tokenizer.encode_batch([one for one, _ in texts])
    targets = loaded.target_tokenizer.encode_batch([other for _, other in texts])
    made = learn(sources, targets, loaded, common=5, likely=4)
    name = loaded.tokenizer.encode("Xylo")
    allowed = made.allowed([sources[0], name], loaded.target_tokenizer.size)
    assert allowed[:, loaded.settings.ends[0]].all() and allowed[1, name].all() and allowed[0, targets[0]].all()
    made.write(tmp_path / "list")
    again = Shortlist.read(tmp_path / "list", loaded)
    assert (again.common == made.common).all() and (again.likely == made.likely).all()
    Shortlist(made.common, made.likely + 10**6, made.vocabulary).write(tmp_path / "wide")
    with pytest.raises(RegardError, match=r"wide: damaged: its ids do not fit the vocabulary"):
        Shortlist.read(tmp_path / "wide", loaded)
