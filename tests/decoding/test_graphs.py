"""A step that was captured and is run again moves a batch as the step itself would.

A tape of operators stands for CUDA's graphs and has their rules: a step that is captured changes nothing, the host's
part of it is not done again, and every operator finds its numbers where they were when it was captured.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from toy import ToySettings, sentences

from regard.accel import products
from regard.decoding import graphs
from regard.decoding.engine import decode
from regard.decoding.running_batch import RunningBatch
from regard.decoding.search import Ends, Search
from regard.decoding.topk import topk_tokens
from regard.models.decoder import DecoderOnly
from regard.models.recorder import record
from regard.models.transformer import Transformer
from regard.nn.positions import ALiBi, Learned, RelativeBias, Rotary
from regard.nn.sequences import Tokens

SETTINGS = ToySettings()


class Tape(TorchDispatchMode):
    """Operators in their order, with their arguments and the tensors that they wrote."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, list[Tensor]]] = []
        self.saved: dict[int, tuple[Tensor, Tensor]] = {}
        self.made: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for x in tree_leaves((args, kwargs)):
            # The memory of tensors that were there before is copied, so that the operators' changes can be undone.
            key = x.untyped_storage().data_ptr() if isinstance(x, Tensor) else 0
            if isinstance(x, Tensor) and key not in self.saved and key not in self.made:
                whole = x.new_empty(0).set_(x.untyped_storage())
                self.saved[key] = whole, whole.clone()
        out = func(*args, **kwargs)
        tensors = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
        self.made.update(key for x in tensors if (key := x.untyped_storage().data_ptr()) not in self.saved)
        self.calls.append((func, args, kwargs, tensors))
        return out

    def undo(self) -> None:
        for whole, before in self.saved.values():
            whole.copy_(before)

    def run(self) -> None:
        for func, args, kwargs, made in self.calls:
            again = [x for x in tree_leaves(func(*args, **kwargs)) if isinstance(x, Tensor)]
            for written, result in zip(made, again, strict=True):
                if written.data_ptr() != result.data_ptr():
                    written.copy_(result)


class Tapes:
    """A ``Capture`` that counts."""

    def __init__(self) -> None:
        self.captured = self.runs = 0

    def __call__(self, advance: graphs.Advance) -> tuple[Callable[[], None], graphs.Advanced]:
        self.captured += 1
        with Tape() as tape:
            advanced = advance()
        tape.undo()

        def run() -> None:
            self.runs += 1
            tape.run()

        return run, advanced


@pytest.fixture
def tapes(monkeypatch: pytest.MonkeyPatch) -> Tapes:
    """Steps on a CPU are captured, with kernels that ask the host nothing."""
    counted = Tapes()
    monkeypatch.setattr(products, "_few", lambda *_: False)
    monkeypatch.setitem(graphs.CAPTURES, "cpu", lambda device: counted)
    return counted


MODELS = {
    "sinusoidal": Transformer(width=16, heads=2, feedforward=32, encoder_layers=1, decoder_layers=2),
    "learned": Transformer(
        width=16, heads=2, feedforward=32, encoder_layers=1, decoder_layers=1, positions=Learned(length=60)
    ),
    "relative": Transformer(
        width=16, heads=2, feedforward=32, encoder_layers=1, decoder_layers=1, positions=RelativeBias(), order="pre"
    ),
    "alibi": Transformer(
        width=16, heads=2, feedforward=32, encoder_layers=1, decoder_layers=1, positions=ALiBi(), order="pre"
    ),
    "rotary": Transformer(
        width=16, heads=2, feedforward=32, encoder_layers=1, decoder_layers=1, positions=Rotary(), share="none"
    ),
    "sinusoidal, long": Transformer(width=16, heads=2, feedforward=32, encoder_layers=1, decoder_layers=1),
}


def build(name: str) -> Any:
    torch.manual_seed(3)
    model = MODELS[name].build(50)
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.6)  # so that sentences end at different places
    return model.eval()


def same(ours: list[Any], theirs: list[Any]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert one.index == other.index
        assert [h.ids for h in one.hypotheses] == [h.ids for h in other.hypotheses]
        assert [h.at_limit for h in one.hypotheses] == [h.at_limit for h in other.hypotheses]
        for a, b in zip(one.hypotheses, other.hypotheses, strict=True):
            assert a.score == pytest.approx(b.score, rel=1e-4, abs=1e-4) and a.normalized == pytest.approx(
                b.normalized, rel=1e-4, abs=1e-4
            )


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    "search",
    [
        Search(max_extra=30),
        Search(beam=4, n_best=2, max_extra=30),
        Search(beam=3, stopping="first", max_extra=25),
        Search(beam=3, stopping="huggingface", max_extra=45, length_penalty="power:0.0"),
    ],
    ids=["greedy", "exact", "first", "huggingface"],
)
def test_a_captured_step_is_the_step(name: str, search: Search, tapes: Tapes, monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = build(name), sentences(23, 9)

    def results() -> list[Any]:
        return list(decode(model, inputs, SETTINGS, search, batch_tokens=90 * search.beam))

    captured = results()
    assert tapes.captured and tapes.runs > 2 * tapes.captured, "sentences come and go, and most steps are run again"
    monkeypatch.delitem(graphs.CAPTURES, "cpu")
    runs = tapes.runs
    same(captured, results())
    assert tapes.runs == runs


def test_a_recorder_sees_every_step_and_steps_that_differ_are_not_captured(tapes: Tapes) -> None:
    model, inputs = build("sinusoidal"), sentences(4, 9)
    with record(model):
        list(decode(model, inputs, SETTINGS, Search(max_extra=12)))
    assert not tapes.captured
    list(decode(model, inputs, SETTINGS, Search(max_extra=12, no_repeat_ngram=3)))
    assert not tapes.captured


def test_a_language_model_goes_on_from_its_prompts(tapes: Tapes, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = DecoderOnly(width=16, heads=4, key_value_heads=2, feedforward=32, layers=2).build(50).eval()
    prompts = sentences(9, 9)

    def results() -> list[Any]:
        return list(decode(model, None, SETTINGS, Search(beam=2, max_extra=40), prompts=prompts, batch_tokens=60))

    captured = results()
    assert tapes.runs
    monkeypatch.delitem(graphs.CAPTURES, "cpu")
    same(captured, results())


def test_a_step_that_cannot_be_captured_is_said_and_run(tapes: Tapes, monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs, search = build("sinusoidal"), sentences(7, 9), Search(beam=2, max_extra=12)

    def fails(advance: graphs.Advance) -> Any:
        with Tape() as tape:
            advance()
        tape.undo()  # as if nothing had run
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setitem(graphs.CAPTURES, "cpu", lambda device: fails)
    with pytest.warns(UserWarning, match="without CUDA graphs: operation not permitted") as warned:
        found = list(decode(model, inputs, SETTINGS, search))
    assert len(warned) == 1
    monkeypatch.delitem(graphs.CAPTURES, "cpu")
    same(found, list(decode(model, inputs, SETTINGS, search)))


@pytest.mark.parametrize("beam", [1, 4])
@pytest.mark.parametrize("fixed", [False, True])
def test_a_step_on_a_gpu_waits_for_nothing(beam: int, fixed: bool, fake_gpu: None) -> None:
    gpu = torch.device("cuda")
    with gpu:
        model = MODELS["sinusoidal"].build(50).eval()
    ids = torch.empty(3, 7, dtype=torch.int64, device=gpu)
    lengths = torch.empty(3, dtype=torch.int64, device=gpu)
    with torch.inference_mode():
        state = model.start(model.encode(Tokens(ids, lengths)), beam, 40)
        state.slots.fixed = fixed
        model.step(ids[:, :1], state, torch.ones(3, dtype=torch.int64, device=gpu))
        search, limits = Search(beam=beam, max_extra=30), np.array([30, 30, 30])
        ends = Ends((SETTINGS.ends[0],), torch.empty(1, dtype=torch.int64, device=gpu))
        running = RunningBatch(state, search, ends, np.arange(3), limits, gpu, uniform=fixed)
        for _ in range(3):
            hidden = model.step(running.last.expand(3, beam).contiguous(), state)
            topk = topk_tokens(model, hidden, ends.depth(beam), ends.tensor)
            if beam == 1:
                running.greedy(topk)
            else:
                running.scores = running.scores.expand(3, beam).contiguous()
                running.ids = running.ids.expand(3, beam, -1).contiguous()
                state.follow(running.beam(topk)[1].parents)
        assert running.last.device.type == "cuda" and running.last.shape == (3, beam)


@pytest.mark.slow
@given(st.integers(1, 12), st.integers(1, 4), st.integers(0, 99))
def test_rows_that_are_filled_again_need_no_new_capture(count: int, beam: int, seed: int) -> None:
    """Shapes tell batches apart: any mix of sentences gives the results of uncaptured steps."""
    model = build("sinusoidal")
    generator = torch.Generator().manual_seed(seed)
    inputs = [torch.randint(4, 50, (1 + seed % 7,), generator=generator).tolist() for _ in range(4 * count)]
    search, counted = Search(beam=beam, max_extra=10), Tapes()

    def results() -> list[Any]:
        return list(decode(model, inputs, SETTINGS, search, batch_tokens=count * beam * (2 + seed % 7)))

    usual = products._few
    try:
        products._few = lambda *_: False
        graphs.CAPTURES["cpu"] = lambda device: counted
        captured = results()
    finally:
        products._few = usual
        del graphs.CAPTURES["cpu"]
    same(captured, results())
