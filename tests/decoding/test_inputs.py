"""Inputs with prompts, languages and limits of their own, and the marks of published models."""

from __future__ import annotations

import pytest
import torch
from toy import Toy, ToySettings, by_hand, sentences

from regard.decoding.engine import Input, Result, Search, decode, decode_inputs
from regard.decoding.scoring import forced_scores
from regard.errors import RegardError

LANGUAGES = {"fr": (30,), "de": (31, 32)}
MARKS = {
    "T5": ToySettings(source_after=(1,), start=(0,), ends=(1,), suppressed=(0,)),
    "mBART": ToySettings(source_after=(3, 20), start=(21,), suppressed=(0, 20, 21)),
    "NLLB": ToySettings(start=(3,), source_before=(20,), languages=LANGUAGES, language_in="target"),
    "OPUS": ToySettings(start=(0,), source_before=(20,), languages=LANGUAGES, suppressed=(0,)),
}
SEARCH = Search(beam=3, n_best=2, max_extra=6)


def results(model: Toy, inputs: list[Input], settings: ToySettings, search: Search = SEARCH) -> list[Result]:
    return list(decode_inputs(model, inputs, settings, search, batch_tokens=60))


@pytest.mark.parametrize("name", ["T5", "mBART"])
@pytest.mark.parametrize("beam", [1, 3])
def test_marks_of_published_models_stand_around_the_ids(name: str, beam: int) -> None:
    model, settings, search = Toy(seed=3), MARKS[name], Search(beam=beam, max_extra=6)
    sources = sentences(6, seed=4)
    for source, found in zip(sources, decode(model, sources, settings, search), strict=True):
        ids, score, _ = by_hand(model, source, settings, search)[0]
        assert found.hypotheses[0].ids == ids
        assert found.hypotheses[0].score == pytest.approx(score, abs=1e-4)  # the design's bound for batching


@pytest.mark.parametrize("name", MARKS)
def test_the_score_of_a_beam_is_the_forced_score_with_prompts_and_languages(name: str) -> None:
    model, settings = Toy(seed=1), MARKS[name]
    languages = ["fr", "de", ""] if settings.languages else [""] * 3
    inputs = [
        Input(i, source, prompt, languages[i % 3])
        for i, (source, prompt) in enumerate(zip(sentences(9, seed=2), sentences(9, seed=5, longest=4), strict=True))
    ]
    for rank in range(2):
        best = [found.hypotheses[rank] for found in results(model, inputs, settings)]
        scored = forced_scores(
            model, [one.source or [] for one in inputs], [one.ids for one in best], settings,
            prompts=[one.prompt for one in inputs], languages=[one.language for one in inputs],
        )  # fmt: skip
        # Rounding of fp32: the forced pass is another batch.
        assert [one.score for one in best] == pytest.approx([one.score for one in scored], abs=1e-4)


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("OPUS", ToySettings(start=(0,), source_before=(20, 31, 32), suppressed=(0,))),
        ("NLLB", ToySettings(start=(3, 31, 32), source_before=(20,))),
    ],
)
def test_a_language_is_the_last_of_the_marks_before(name: str, same: ToySettings) -> None:
    model, sources = Toy(seed=2), sentences(5, seed=6)
    found = results(model, [Input(i, source, (), "de") for i, source in enumerate(sources)], MARKS[name])
    assert found == results(model, [Input(i, source) for i, source in enumerate(sources)], same)
    assert found != results(model, [Input(i, source, (), "fr") for i, source in enumerate(sources)], MARKS[name])


def test_inputs_keep_their_numbers_and_order() -> None:
    model, settings = Toy(), ToySettings()
    inputs = [Input(50 - 7 * i, source) for i, source in enumerate(sentences(7))]
    found = results(model, inputs, settings)
    assert [one.index for one in found] == [one.number for one in inputs]
    plain = list(decode(model, sentences(7), settings, SEARCH, batch_tokens=60))
    assert [one.hypotheses for one in found] == [one.hypotheses for one in plain]


@pytest.mark.parametrize("beam", [1, 2])
def test_the_nearest_limit_counts(beam: int) -> None:
    """An input's own, else the search's, else so many more than the source has; always within the positions."""
    endless = ToySettings(suppressed=(0, 2, 3), ends=(3,))
    model = Toy()

    def lengths(search: Search, *own: int | None) -> list[int]:
        inputs = [Input(i, [5] * 4, (7,), "", limit) for i, limit in enumerate(own)]
        search = Search(beam=beam, max_extra=search.max_extra, max_tokens=search.max_tokens, stopping="huggingface")
        return [len(one.hypotheses[0].ids) for one in results(model, inputs, endless, search)]

    assert lengths(Search(max_extra=3), None, 2, 9) == [7, 2, 9]
    assert lengths(Search(max_extra=3, max_tokens=5), None, 2, 9) == [5, 2, 9]
    model.longest = 8  # one start mark, a token of prompt, and a step that is computed after the end
    assert lengths(Search(max_tokens=20), None, 2, 9) == [5, 2, 5]


def test_wrong_inputs_are_one_line() -> None:
    model = Toy()
    with pytest.raises(RegardError, match="language 'es': this model translates into de, fr"):
        results(model, [Input(0, [5], (), "es")], MARKS["NLLB"])
    with pytest.raises(RegardError, match="input 1: nothing stands before the output: give a prompt"):
        results(model, [Input(0, None)], ToySettings(start=()))
    with pytest.raises(RegardError, match="input 3: max tokens 0: expected a whole number from 1"):
        results(model, [Input(2, [5], max_tokens=0)], ToySettings())
    with pytest.raises(RegardError, match="max tokens 0: expected a whole number from 1"):
        Search(max_tokens=0)


def test_a_model_without_a_start_continues_prompts() -> None:
    settings = ToySettings(start=())
    (found,) = results(Toy(), [Input(0, None, (7, 8))], settings)
    (scored,) = forced_scores(Toy(), None, [found.hypotheses[0].ids], settings, prompts=[[7, 8]])
    assert scored.score == pytest.approx(found.hypotheses[0].score, abs=1e-4)
    assert torch.isfinite(torch.tensor(scored.token_scores)).all()
