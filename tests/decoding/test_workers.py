"""Batches side by side, each in a process, give what one gives."""

from __future__ import annotations

import os
import threading
from collections.abc import Generator, Iterator

import pytest
import torch
from test_models import build
from toy import ToySettings, sentences

import regard
from regard.accel import native
from regard.decoding import workers
from regard.decoding.engine import Step, decode, decode_inputs
from regard.decoding.search import Search
from regard.decoding.waiting import Input, inputs_of
from regard.models.recorder import record

SETTINGS = ToySettings()
FEW, MANY = 100, 600  # sentences: not worth a second process, and worth one


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", ["transformer", "rnn"])
@pytest.mark.parametrize("beam", [1, 3])
def test_two_processes_give_what_one_gives(name: str, beam: int) -> None:
    model, inputs, search = build(name), sentences(MANY, 9), Search(beam=beam, max_extra=12, n_best=beam)
    expected = list(decode(model, inputs, SETTINGS, search))
    model.train()
    found = workers.DecodingWorkers().decode(model, inputs_of(inputs), SETTINGS, search, batch_tokens=100 * beam)
    assert model.training and torch.get_num_threads() == 2
    assert [result.index for result in found] == list(range(MANY))
    for one, other in zip(found, expected, strict=True):
        assert [h.ids for h in one.hypotheses] == [h.ids for h in other.hypotheses]
        assert [h.at_limit for h in one.hypotheses] == [h.at_limit for h in other.hypotheses]
        # Rounding differs with the batch; each score lies within 1e-5 of what fp64 gives.
        assert [h.score for h in one.hypotheses] == pytest.approx([h.score for h in other.hypotheses], rel=2e-5)


def test_each_process_has_its_share_of_the_sentences_and_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []  # of this process

    def spy(model: object, inputs: list[Input], *rest: object, **options: object) -> Iterator[object]:
        seen.append((torch.get_num_threads(), len(inputs)))
        return decode_inputs(model, inputs, *rest, **options)  # type: ignore[arg-type]

    def of(count: int) -> list[tuple[int, int]]:
        seen.clear()
        found = workers.DecodingWorkers().decode(
            model, inputs_of(sentences(count, 9)), SETTINGS, search, batch_tokens=500
        )
        assert len(found) == count
        return seen

    monkeypatch.setattr(workers, "decode_inputs", spy)
    model, search = build("transformer"), Search(beam=1, max_extra=5)
    assert of(MANY + 1) == [(1, MANY // 2 + 1)]
    assert of(FEW) == [(2, FEW)]
    with record(model, heads=[0]):
        assert of(MANY) == [(2, MANY)]  # a recording wants its calls here


@pytest.mark.parametrize("beam", [1, 2])
def test_steps_of_every_process_reach_who_listens(beam: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps of a sentence, put together, are its result; they come in the caller's thread, with its numbers."""
    model, search = build("transformer"), Search(beam=beam, max_extra=3)
    inputs = [Input(7 + 3 * i, source) for i, source in enumerate(sentences(MANY, 5))]
    seen: dict[int, list[Step]] = {one.number: [] for one in inputs}
    asked: list[bool] = []
    threads: set[int] = set()

    def told(steps: Iterator[Step]) -> Generator[bytes, None, bytes]:
        asked.append(True)  # in this process
        return workers_told(steps)

    def on_step(step: Step) -> None:
        threads.add(threading.get_ident())
        for number in step.sentences:
            seen[number].append(step)

    workers_told = workers._messages
    monkeypatch.setattr(workers, "_messages", told)
    kept = workers.DecodingWorkers()
    expected = kept.decode(model, inputs, SETTINGS, search, batch_tokens=500)
    assert not asked, "no message for a step where nobody listens"
    assert kept.forked is not None
    found = kept.decode(model, inputs, SETTINGS, search, batch_tokens=500, on_step=on_step)
    assert asked == [True] and threads == {threading.get_ident()}
    assert [(one.index, one.hypotheses) for one in found] == [(one.index, one.hypotheses) for one in expected]
    for result in found:
        steps = seen[result.index]
        assert steps[0].first and not any(step.first and step.results for step in steps[1:])
        (end,) = [one for step in steps for one in step.results if one.index == result.index]
        assert end == result
        if beam == 1:
            rows = [int(step.tokens[step.sentences.index(result.index), 0]) for step in steps]
            ids = result.hypotheses[0].ids
            assert rows[: len(ids)] == ids


def test_an_error_in_one_process_reaches_the_caller() -> None:
    for place in (0, MANY - 1):  # in whichever process
        model, inputs = build("transformer"), sentences(MANY, 9)
        inputs[place] = [10_000]  # no such subword
        with pytest.raises(IndexError):
            workers.DecodingWorkers().decode(model, inputs_of(inputs), SETTINGS, Search(beam=1), batch_tokens=500)
        assert torch.get_num_threads() == 2


def test_a_process_that_is_killed_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    here = os.getpid()

    def killed(*given: object, **options: object) -> Iterator[object]:
        if os.getpid() != here:
            os.kill(os.getpid(), 9)
        return decode_inputs(*given, **options)  # type: ignore[arg-type]

    model, inputs, search = build("transformer"), sentences(MANY, 9), Search(beam=1, max_extra=5)
    expected = list(decode(model, inputs, SETTINGS, search))
    monkeypatch.setattr(workers, "decode_inputs", killed)
    found = workers.DecodingWorkers().decode(model, inputs_of(inputs), SETTINGS, search, batch_tokens=500)
    assert [result.hypotheses[0].ids for result in found] == [result.hypotheses[0].ids for result in expected]


def test_little_text_is_decoded_by_the_prepared_model_where_kernels_are_at_hand(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    translator = regard.load("zh-en")
    search = translator.search(beam=1)
    for at_hand in (False, True):
        monkeypatch.setattr(native, "at_hand", lambda at_hand=at_hand: at_hand)
        assert (translator.backend.prepared(inputs_of([[5, 6]]), search) is translator.model) is not at_hand  # type: ignore[attr-defined]


def test_weights_that_change_are_decoded_with() -> None:
    """The prepared model is made anew when the weights have changed."""
    translator = regard.load("zh-en")
    texts = ["我爱你。", "他是我的朋友。", "今天天气很好。"] * 100
    search = translator.search(beam=1)
    sources = translator.tokenizer.encode_batch(texts)
    before = [result.hypotheses[0].score for result in translator.backend(inputs_of(sources), search, 4096)]
    with torch.no_grad():
        translator.model.output_table()[0].mul_(0.5)
    after = [result.hypotheses[0].score for result in translator.backend(inputs_of(sources), search, 4096)]
    fresh = [result.hypotheses[0].score for result in decode(translator.model, sources, translator.settings, search)]
    assert before != after
    assert after == pytest.approx(fresh, rel=1e-4)


def test_processes_are_kept_for_the_next_text_of_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    model, kept, search = build("transformer"), workers.DecodingWorkers(), Search(beam=1, max_extra=5)

    def of(model: object, search: Search) -> int:
        kept.decode(model, inputs_of(sentences(MANY, 9)), SETTINGS, search, batch_tokens=500)
        assert kept.forked is not None
        return kept.forked.children[0].process

    first = of(model, search)
    assert of(model, Search(beam=1, max_extra=5)) == first
    assert of(model, Search(beam=1, max_extra=6)) != first
    assert of(build("transformer"), Search(beam=1, max_extra=6)) != of(model, search)
