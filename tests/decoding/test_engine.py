"""The engine against beam search by hand, and against itself in other batches."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from toy import EOS, Toy, ToySettings, by_hand, sentences

from regard.decoding.engine import Input, Search, decode, steps
from regard.errors import RegardError
from regard.models.decoder import DecoderOnly
from regard.models.transformer import Transformer
from regard.nn.positions import Learned

torch.set_num_threads(1)
SETTINGS = ToySettings()


def check(result, expected, search, tolerance=1e-4):
    got = result.hypotheses
    assert len(got) == min(search.n_best, len(expected))
    for mine, (ids, score, normalized) in zip(got, expected, strict=False):
        assert mine.ids == ids
        assert mine.score == pytest.approx(score, abs=tolerance)
        assert mine.normalized == pytest.approx(normalized, abs=tolerance)


@pytest.mark.parametrize("penalty", ["gnmt:0.6", "power:1.0", "gnmt:0", "power:-0.5", "gnmt:1.5"])
@pytest.mark.parametrize(("beam", "n_best"), [(1, 1), (2, 1), (4, 4), (5, 2)])
def test_exact_stopping_gives_what_never_stopping_gives(penalty, beam, n_best):
    for seed in range(2):
        model = Toy(seed=seed)
        sources = sentences(6, seed)
        search = Search(beam=beam, length_penalty=penalty, max_extra=8, n_best=n_best)
        for source, result in zip(sources, list(decode(model, sources, SETTINGS, search)), strict=True):
            check(result, by_hand(model, source, SETTINGS, search), search)


@pytest.mark.parametrize("ends", [(), (EOS, 9), (8, EOS, 30, 31)], ids=len)
@pytest.mark.parametrize("beam", [1, 3])
@pytest.mark.parametrize("stopping", ["exact", "huggingface"])
def test_none_or_several_tokens_end_an_output(ends, beam, stopping):
    model, sources, settings = Toy(seed=3, sharpness=0.7), sentences(8, 3), ToySettings(ends=ends)
    model.ending[list(ends)] = 3.0
    search = Search(beam=beam, n_best=beam, length_penalty="power:1.0", max_extra=3, stopping=stopping)
    found = set()
    for source, result in zip(sources, list(decode(model, sources, settings, search)), strict=True):
        check(result, by_hand(model, source, settings, search), search)
        for hypothesis in result.hypotheses:
            found.add(hypothesis.end)
            assert not set(hypothesis.ids) & set(ends)
            assert hypothesis.end in ends or (hypothesis.end is None and len(hypothesis.ids) == max(1, len(source) + 3))
    assert len(found - {None}) >= min(2, len(ends))
    assert ends == () or stopping == "huggingface" or None not in found


def test_exact_stopping_stops():
    """A model that ends early is not run to the longest output: with power:0 the best finished is the bound itself."""
    model, steps = Toy(seed=0, sharpness=0.5, ending=3.0), {}
    for extra in (30, 300):
        model.steps = 0
        list(decode(model, sentences(12, 0), SETTINGS, Search(beam=4, length_penalty="power:0", max_extra=extra)))
        steps[extra] = model.steps
    assert steps[300] == steps[30] < 39


def test_results_are_in_the_order_of_the_input_and_do_not_depend_on_the_batch():
    model = Toy(seed=5)
    sources = sentences(64, 5)
    for beam in (1, 4):
        search = Search(beam=beam, n_best=beam, max_extra=15)
        alone = [next(decode(model, [source], SETTINGS, search)) for source in sources]
        for batch_tokens in (1, 60 * beam, 4096):
            together = list(decode(model, sources, SETTINGS, search, batch_tokens=batch_tokens))
            assert [result.index for result in together] == list(range(64))
            for one, other in zip(alone, together, strict=True):
                assert [h.ids for h in one.hypotheses] == [h.ids for h in other.hypotheses]
                for a, b in zip(one.hypotheses, other.hypotheses, strict=True):
                    assert a.score == pytest.approx(b.score, abs=1e-4)


def test_inputs_that_come_while_others_are_decoded_join_them():
    model, sources = Toy(seed=1), sentences(40, 1)
    search = Search(beam=3, max_extra=20)
    coming = [Input(100 + i, source) for i, source in enumerate(sources[10:])]
    batches: list[list[int]] = []
    found = {}

    def more() -> list[Input]:
        return [coming.pop() for _ in range(min(len(coming), 3))]

    inputs = [Input(i, source) for i, source in enumerate(sources[:10])]
    for record in steps(model, inputs, SETTINGS, search, batch_tokens=100, more=more):
        batches.append(record.sentences)
        found.update((result.index, result.hypotheses) for result in record.results)
    assert any(min(batch) < 100 <= max(batch) for batch in batches)
    alone = list(decode(model, sources, SETTINGS, search))
    assert len(found) == 40
    for i, one in enumerate(alone):
        assert [h.ids for h in found[i if i < 10 else 90 + i]] == [h.ids for h in one.hypotheses]


def test_sentences_leave_and_enter():
    model, sources = Toy(seed=1), sentences(40, 1)
    search = Search(beam=3, max_extra=20)
    batches: list[list[int]] = []
    results = list(
        decode(model, sources, SETTINGS, search, batch_tokens=100, on_step=lambda r: batches.append(r.sentences))
    )
    assert len(results) == 40
    grown = [(a, b) for a, b in pairwise(batches) if set(b) - set(a) and set(a) & set(b)]
    assert grown, "no sentence entered while others were decoded"
    assert all(len(set(batch)) == len(batch) for batch in batches)


@pytest.mark.parametrize("alpha", ["power:1.0", "power:0", "power:-0.5"])
def test_hugging_face_keeps_hypotheses_without_an_end_mark(alpha):
    """Its finished hypotheses are as many as the beam is wide; at the longest length unfinished ones join them."""
    model, sources = Toy(seed=2, sharpness=0.5), sentences(10, 2)
    search = Search(beam=4, n_best=4, length_penalty=alpha, max_extra=3, stopping="huggingface")
    for source, result in zip(sources, decode(model, sources, SETTINGS, search), strict=True):
        if alpha != "power:-0.5":  # there its bound is a heuristic, and stops too early at times
            check(result, by_hand(model, source, SETTINGS, search), search)
        assert all(len(h.ids) <= max(1, len(source) + 3) for h in result.hypotheses)


def test_first_stops_when_as_many_have_finished_as_the_beam_is_wide():
    model, sources = Toy(seed=3), sentences(20, 3)
    counts = {}
    for stopping in ("first", "exact"):
        model.steps = 0
        results = list(decode(model, sources, SETTINGS, Search(beam=4, n_best=4, max_extra=30, stopping=stopping)))
        counts[stopping] = model.steps
        assert all(len(r.hypotheses) == 4 for r in results)
    assert counts["first"] <= counts["exact"]


def test_no_ngram_repeats():
    model, sources = Toy(seed=4, sharpness=6.0), sentences(16, 4)
    search = Search(beam=3, n_best=3, max_extra=14, no_repeat_ngram=2)
    for source, result in zip(sources, decode(model, sources, SETTINGS, search), strict=True):
        check(result, by_hand(model, source, SETTINGS, search), search)
        for hypothesis in result.hypotheses:
            pairs = list(pairwise(hypothesis.ids))
            assert len(pairs) == len(set(pairs))


def test_prompts_of_different_lengths_without_a_source():
    model = Toy(seed=6)
    prompts = sentences(20, 6)
    search = Search(beam=3, n_best=2, max_extra=6)
    together = list(decode(model, None, SETTINGS, search, prompts=prompts))
    for prompt, result in zip(prompts, together, strict=True):
        alone = next(decode(model, None, SETTINGS, search, prompts=[prompt]))
        assert [h.ids for h in alone.hypotheses] == [h.ids for h in result.hypotheses]


def test_a_vocabulary_smaller_than_the_beam():
    model = Toy(vocabulary=6, seed=7)
    search = Search(beam=8, n_best=3, max_extra=4)
    sources = [[4, 5], [5], []]
    for source, result in zip(sources, decode(model, sources, SETTINGS, search), strict=True):
        check(result, by_hand(model, source, SETTINGS, search), search)


def test_the_limit_is_said_and_an_output_of_one_token_is_possible():
    model = Toy(seed=8)
    result = next(decode(model, [[5, 6]], SETTINGS, Search(beam=2, max_extra=-1)))
    assert result.hypotheses[0].ids == [] and result.hypotheses[0].at_limit
    assert list(decode(model, [], SETTINGS, Search())) == []
    for beam in (1, 3):  # all of them done with the prompt, batch after batch
        results = list(decode(model, sentences(9), SETTINGS, Search(beam=beam, max_extra=-99), batch_tokens=20))
        assert [r.index for r in results] == list(range(9)) and all(r.hypotheses[0].ids == [] for r in results)


def test_the_model_returns_to_its_mode():
    model = Toy().train()
    list(decode(model, [[5]], SETTINGS, Search(beam=2)))
    assert model.training


def test_broken_weights_and_wrong_options_are_said():
    model = Toy()
    model.table.data[5] = float("nan")
    with pytest.raises(RegardError, match="not finite"):
        list(decode(model, [[5, 6]], SETTINGS, Search(beam=2, max_extra=2)))
    for wrong in ({"beam": 0}, {"n_best": 6}, {"length_penalty": "wu:1"}, {"stopping": "soon"}):
        with pytest.raises(RegardError):
            Search(**wrong)


@pytest.mark.parametrize("beam", [1, 3])
def test_outputs_end_where_the_learned_positions_end(beam):
    torch.manual_seed(0)
    shape = {"width": 16, "heads": 2, "feedforward": 32, "encoder_layers": 1, "decoder_layers": 1}
    model = Transformer(**shape, positions=Learned(12)).build(40)
    endless = ToySettings(suppressed=(0, 2, EOS))
    results = list(decode(model, [[5] * n for n in (1, 4, 9)], endless, Search(beam=beam, max_extra=50)))
    for result in results:
        assert result.hypotheses[0].at_limit
        assert 1 + len(result.hypotheses[0].ids) + 1 <= 12  # with start and end mark


def test_a_prompt_longer_than_the_learned_positions_is_refused():
    model = DecoderOnly(width=16, heads=2, feedforward=32, layers=1, positions=Learned(12)).build(40)
    with pytest.raises(RegardError, match="input 2: 21 tokens stand before the output, and the model has learnt 12"):
        list(decode(model, None, SETTINGS, Search(beam=1), prompts=[[5], [5] * 20]))
