"""Searching with the cached engine: greedy is the plain loop, a beam's score is the forced score of its ids."""

from __future__ import annotations

import pytest
import torch
from thin import V, one, oracle, sentences
from torch import nn

from regard.decoding.engine import decode
from regard.decoding.scoring import forced_scores
from regard.decoding.search import Search
from regard.nn.sequences import Tokens
from regard.text.settings import TextSettings

SETTINGS = TextSettings(suppressed=(0, 2))
LENGTHS = [3, 1, 6, 2, 9, 4]


def inputs(model: nn.Module) -> dict[str, list[list[int]] | None]:
    """Sources for a translator, prompts for a model without a source."""
    tokens = sentences(LENGTHS, seed=5)
    ids = [one(tokens, b).ids[0].tolist() for b in range(len(LENGTHS))]
    return {"sources": ids if model.has_source else None, "prompts": None if model.has_source else ids}


def plain_greedy(model: nn.Module, given: list[int], longest: int) -> list[int]:
    """The whole prefix again at each step, one sentence, no cache: the oracle."""
    source = torch.tensor([[*given, SETTINGS.ends[0]]])
    memory = model.encode(Tokens(source, torch.tensor([source.shape[1]]))) if model.has_source else None
    prefix = [*SETTINGS.start] if model.has_source else [*SETTINGS.start, *given]
    out: list[int] = []
    while len(out) < longest - 1:  # the last place is the end mark's
        ids = torch.tensor([prefix + out])
        logits = model.logits(model(Tokens(ids, torch.tensor([ids.shape[1]])), memory).hidden[0, -1])
        logits[list(SETTINGS.suppressed)] = -torch.inf
        if (token := int(logits.argmax())) == SETTINGS.ends[0]:
            break
        out.append(token)
    return out


@pytest.mark.parametrize("batch_tokens", [1, 4096])
def test_greedy_is_the_plain_loop(decoder: nn.Module, batch_tokens: int) -> None:
    given = inputs(decoder)
    search = Search(beam=1, max_extra=8)
    found = [r.hypotheses[0].ids for r in decode(decoder, given["sources"], SETTINGS, search,
                                                 prompts=given["prompts"], batch_tokens=batch_tokens)]  # fmt: skip
    with torch.inference_mode():
        sides = given["sources"] or given["prompts"] or []
        assert found == [plain_greedy(oracle(decoder), ids, len(ids) + 8) for ids in sides]


@pytest.mark.parametrize("beam", [1, 4])
def test_a_beams_score_is_the_forced_score(decoder: nn.Module, beam: int) -> None:
    given = inputs(decoder)
    search = Search(beam=beam, n_best=beam, max_extra=8)
    results = list(decode(decoder, given["sources"], SETTINGS, search, prompts=given["prompts"]))
    assert [r.index for r in results] == list(range(len(LENGTHS)))
    for rank in range(beam):
        some = [r.index for r in results if len(r.hypotheses) > rank]
        chosen = [results[i].hypotheses[rank] for i in some]
        forced = forced_scores(
            oracle(decoder),
            None if given["sources"] is None else [given["sources"][i] for i in some],
            [h.ids for h in chosen],
            SETTINGS,
            prompts=None if given["prompts"] is None else [given["prompts"][i] for i in some],
        )
        for hypothesis, (score, _) in zip(chosen, forced, strict=True):
            assert hypothesis.score == pytest.approx(score, rel=1e-5)


def test_the_batch_does_not_matter(decoder: nn.Module) -> None:
    given = inputs(decoder)
    search = Search(beam=3, n_best=3, max_extra=8)
    together, apart = (
        list(decode(decoder, given["sources"], SETTINGS, search, prompts=given["prompts"], batch_tokens=tokens))
        for tokens in (4096, 1)
    )
    for one_result, other in zip(together, apart, strict=True):
        assert [h.ids for h in one_result.hypotheses] == [h.ids for h in other.hypotheses]
        assert [h.score for h in one_result.hypotheses] == pytest.approx([h.score for h in other.hypotheses], rel=1e-5)
    assert max(max(h.ids, default=0) for r in together for h in r.hypotheses) < V
