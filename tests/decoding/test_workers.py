"""Flights side by side give what one flight gives."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from test_models import build
from toy import ToySettings, sentences

from regard.decoding import workers
from regard.decoding.engine import decode
from regard.decoding.search import Search
from regard.nn.recorder import record

SETTINGS = ToySettings()


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", ["transformer", "rnn"])
@pytest.mark.parametrize("beam", [1, 3])
def test_two_workers_give_what_one_flight_gives(name: str, beam: int) -> None:
    model, inputs, search = build(name), sentences(200, 9), Search(beam=beam, max_extra=12, n_best=beam)
    expected = list(decode(model, inputs, SETTINGS, search))
    model.train()
    found = workers.decode_on_cores(model, inputs, SETTINGS, search, batch_tokens=100 * beam)
    assert model.training and torch.get_num_threads() == 2
    assert [result.index for result in found] == list(range(200))
    for one, other in zip(found, expected, strict=True):
        assert [h.ids for h in one.hypotheses] == [h.ids for h in other.hypotheses]
        # Rounding differs with the batch, as the engine's own tests say.
        assert [h.score for h in one.hypotheses] == pytest.approx([h.score for h in other.hypotheses], rel=1e-5)


def test_each_flight_has_its_share_of_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []

    def spy(model: object, sources: list[list[int]], *rest: object, **options: object) -> Iterator[object]:
        seen.append((torch.get_num_threads(), len(sources)))
        return decode(model, sources, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(workers, "decode", spy)
    model, search = build("transformer"), Search(beam=1, max_extra=5)
    workers.decode_on_cores(model, sentences(201, 9), SETTINGS, search, batch_tokens=500)
    assert sorted(seen) == [(1, 100), (1, 101)]
    seen.clear()
    workers.decode_on_cores(model, sentences(10, 9), SETTINGS, search, batch_tokens=500)
    assert seen == [(2, 10)]  # too few to be worth a second flight
    seen.clear()
    with record(model, heads=[0]):
        workers.decode_on_cores(model, sentences(201, 9), SETTINGS, search, batch_tokens=500)
    assert seen == [(2, 201)]  # a recording wants its calls in order


def test_an_error_in_one_flight_reaches_the_caller() -> None:
    model, inputs = build("transformer"), sentences(200, 9)
    inputs[150] = [10_000]  # no such subword
    with pytest.raises(IndexError):
        workers.decode_on_cores(model, inputs, SETTINGS, Search(beam=1), batch_tokens=500)
    assert torch.get_num_threads() == 2
