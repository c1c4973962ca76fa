"""Sampling: what is drawn, how often, and that a draw depends on nothing but seed, sentence, sample and step."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from test_models import build
from toy import EOS, Toy, ToySettings, sentences

from regard.decoding.engine import Input, Search, decode, steps
from regard.decoding.sampling import Sampling, draw, gumbel, keys_of
from regard.decoding.scoring import forced_scores
from regard.errors import RegardError

torch.set_num_threads(1)
SETTINGS = ToySettings()


def chi_square(counts: Any, probabilities: Any) -> float:
    """How many standard deviations the statistic lies above its mean (Wilson and Hilferty 1931)."""
    counts, probabilities = np.asarray(counts, float).ravel(), np.asarray(probabilities, float).ravel()
    assert counts[probabilities == 0].sum() == 0
    expected = counts.sum() * probabilities[probabilities > 0]
    assert expected.min() > 5
    freedom = len(expected) - 1
    statistic = ((counts[probabilities > 0] - expected) ** 2 / expected).sum()
    return float(((statistic / freedom) ** (1 / 3) - 1 + 2 / (9 * freedom)) / math.sqrt(2 / (9 * freedom)))


class Fixed(torch.nn.Module):
    """Every step has the same scores."""

    def __init__(self, scores: torch.Tensor) -> None:
        super().__init__()
        self.scores = scores

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.scores.expand(*hidden.shape[:-1], -1).clone()


def drawn(sampling: Sampling, scores: torch.Tensor, count: int, **options: Any) -> torch.Tensor:
    keys = torch.from_numpy(keys_of(sampling.seed, np.arange(count), 1, np.full(count, 3)))
    model: Any = Fixed(scores)
    return draw(model, torch.zeros(count, 1), sampling, keys, **options)[0][:, 0]


@pytest.mark.parametrize(
    "options",
    [{}, {"temperature": 0.6}, {"temperature": 2.0, "top_k": 6}, {"top_p": 0.9}, {"min_p": 0.1, "top_k": 8}],
    ids=str,
)
@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_tokens_are_drawn_as_often_as_their_probabilities_say(options: dict[str, float], seed: int) -> None:
    scores = torch.linspace(-2.0, 1.0, 12)
    sampling = Sampling(seed=seed, **options)  # type: ignore[arg-type]
    processed = scores[None]
    for process in sampling.processors():
        processed = process(processed)
    counts = torch.bincount(drawn(sampling, scores, 20_000), minlength=12)
    assert abs(chi_square(counts, processed[0].softmax(0))) < 3.5


def test_draws_of_steps_samples_sentences_and_seeds_are_independent() -> None:
    scores = torch.zeros(1, 1, 5)
    tokens = torch.arange(5).expand(20_000, 5)

    def choices(keys: np.ndarray) -> np.ndarray:
        return (scores[0] + gumbel(torch.from_numpy(keys.ravel()), tokens)).argmax(1).numpy()

    numbers, step = np.arange(20_000), np.full(20_000, 7)
    one = choices(keys_of(1, numbers, 1, step))
    for other in (
        choices(keys_of(1, numbers, 1, step + 1)),
        choices(keys_of(2, numbers, 1, step)),
        choices(keys_of(1, numbers + 1, 1, step)),
        choices(keys_of(1, numbers, 2, step)[:, 1]),
    ):
        assert abs(chi_square(np.bincount(5 * one + other, minlength=25), np.full(25, 1 / 25))) < 3.5


def test_only_the_top_k_are_scored_where_no_other_can_be_drawn() -> None:
    """The fast way by a top-k draws what the way by all log-probabilities draws."""
    model: Any = Toy(seed=3)
    hidden = torch.randn(60, 12, generator=torch.Generator().manual_seed(2))
    keys = torch.from_numpy(keys_of(5, np.arange(60), 3, np.arange(60)))
    banned = torch.randint(-1, 40, (60, 4), generator=torch.Generator().manual_seed(2))
    ids = torch.tensor([0, 2])
    for chunk in (0, 7):
        every = draw(model, hidden, Sampling(top_p=0.8), keys, chunk=chunk, suppressed=ids, banned=banned)
        top = draw(model, hidden, Sampling(top_p=0.8, top_k=40), keys, chunk=chunk, suppressed=ids, banned=banned)
        assert torch.equal(every[0], top[0])
        torch.testing.assert_close(every[1], top[1])


@pytest.mark.parametrize("name", ["transformer", "decoder", "rnn"])
@pytest.mark.parametrize("options", [{"top_k": 5, "temperature": 1.5}, {"top_p": 0.9}], ids=str)
def test_a_sample_does_not_depend_on_its_batch_and_its_score_is_the_models(name: str, options: Any) -> None:
    model, texts = build(name), sentences(12, 9)
    sampling = Sampling(n=3, seed=4, max_extra=8, **options)
    given: Any = {"sources": texts, "prompts": None} if model.has_source else {"sources": None, "prompts": texts}
    results = [list(decode(model, settings=SETTINGS, search=sampling, batch_tokens=size, **given)) for size in (1, 200)]
    differ = 0
    for number, (one, other) in enumerate(zip(*results, strict=True)):
        assert [h.ids for h in one.hypotheses] == [h.ids for h in other.hypotheses] and len(one.hypotheses) == 3
        inputs = [Input(number, texts[number]) if model.has_source else Input(number, None, texts[number])]
        alone = [result for step in steps(model, inputs, SETTINGS, sampling) for result in step.results]
        assert [h.ids for h in alone[0].hypotheses] == [h.ids for h in one.hypotheses]
        differ += one.hypotheses[0].ids != one.hypotheses[1].ids
        assert all(h.at_limit == (h.end is None) and h.normalized == h.score for h in one.hypotheses)
    assert differ > 5
    samples = [(texts[result.index], one) for result in results[1] for one in result.hypotheses]
    ids = [[*one.ids, *(() if one.end is None else (one.end,))] for _, one in samples]
    inputs_of = [text for text, _ in samples]
    forced = (
        forced_scores(model, inputs_of, ids, SETTINGS, ended=False)
        if model.has_source
        else forced_scores(model, None, ids, SETTINGS, prompts=inputs_of, ended=False)
    )
    assert [one.score for one in forced] == pytest.approx([one.score for _, one in samples], abs=1e-4)


def test_first_tokens_of_many_sentences_follow_the_model() -> None:
    model, count = Toy(vocabulary=12, seed=1, sharpness=0.2), 3000
    found = list(decode(model, None, SETTINGS, Sampling(seed=3, max_extra=0), prompts=[[5]] * count))
    first = [h.ids[0] if h.ids else EOS for result in found for h in result.hypotheses]
    state = model.start(None, 1, 9, 1)
    scores = model.logits(model.step(torch.tensor([[2, 5]]), state, torch.tensor([2])))[0, -1].detach()
    scores[[0, 2]] = -torch.inf  # suppressed
    assert abs(chi_square(np.bincount(first, minlength=12), scores.double().softmax(0))) < 3.5


def test_temperature_0_is_greedy_search() -> None:
    model, sources = Toy(seed=5), sentences(20, 5)
    greedy = decode(model, sources, SETTINGS, Search(beam=1, stopping="first", max_extra=6, no_repeat_ngram=2))
    sampled = decode(model, sources, SETTINGS, Sampling(temperature=0, n=2, max_extra=6, no_repeat_ngram=2))
    for one, other in zip(greedy, sampled, strict=True):
        assert [h.ids for h in other.hypotheses] == 2 * [one.hypotheses[0].ids]
        assert other.hypotheses[0].score == pytest.approx(one.hypotheses[0].score, abs=1e-4)


def test_ids_that_may_not_be_the_first_token() -> None:
    model, sources = Toy(seed=5, sharpness=0.1), sentences(20, 5)
    plain, changed = SETTINGS, ToySettings(suppressed_first=(EOS, *range(4, 20)))
    for search in (
        Sampling(seed=1, max_extra=6),
        Sampling(top_k=9, max_extra=6),
        Search(beam=3, max_extra=6, stopping="first"),
    ):
        before, after = (
            [result.hypotheses[0].ids for result in decode(model, sources, settings, search)]
            for settings in (plain, changed)
        )
        assert any(ids[0] < 20 for ids in before if ids) and any(set(ids[1:]) & set(range(4, 20)) for ids in after)
        assert all(ids and ids[0] >= 20 for ids in after)


def test_inputs_that_nobody_wants_any_more_leave() -> None:
    model, sources = Toy(seed=1, ending=-30.0), sentences(12, 1)
    inputs = [Input(number, ids) for number, ids in enumerate(sources)]
    seen: list[list[int]] = []
    found: dict[int, Any] = {}
    sampling = Sampling(max_extra=20, n=2)
    for step in steps(model, inputs, SETTINGS, sampling, batch_tokens=90, stopped=lambda: range(0, 12, 2)):
        seen.append(step.sentences)
        found.update((result.index, result) for result in step.results)
    assert sorted(found) == list(range(1, 12, 2))
    assert max(sum(number == 4 for number in batch) for batch in seen) == 1 and sum(4 in batch for batch in seen) < 5
    expected = list(decode(model, sources, SETTINGS, sampling))
    assert all([h.ids for h in found[i].hypotheses] == [h.ids for h in expected[i].hypotheses] for i in found)


def test_wrong_options_are_refused() -> None:
    for wrong in (
        {"temperature": -1.0}, {"temperature": math.nan}, {"top_k": -1}, {"top_k": 1.5}, {"top_p": 1.1},
        {"min_p": -0.1}, {"seed": -1}, {"n": 0}, {"max_tokens": 0},
    ):  # fmt: skip
        with pytest.raises(RegardError, match="expected a"):
            Sampling(**wrong)  # type: ignore[arg-type]
    with pytest.raises(RegardError, match="top-p 'x': expected a number from 0 to 1"):
        Sampling(top_p="x")  # type: ignore[arg-type]
