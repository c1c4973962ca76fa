"""The work of decoding, counted and not timed: structure that keeps it fast."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from toy import ToySettings, sentences

from regard.accel import native
from regard.accel.prepared import prepare
from regard.accel.thresholds import LOGITS
from regard.decoding.engine import decode
from regard.decoding.inputs import padded
from regard.decoding.scheduler import Scheduler
from regard.decoding.search import Search
from regard.models.transformer import Transformer

SETTINGS = ToySettings()


def build(vocabulary: int = 50, layers: int = 2, width: int = 16) -> Any:
    torch.manual_seed(0)
    options = Transformer(width=width, heads=2, feedforward=32, encoder_layers=1, decoder_layers=layers)
    return options.build(vocabulary).eval()


class Operators(TorchDispatchMode):
    """Counts the operators that compute, views and empty rooms apart, and the most numbers that one of them made."""

    def __init__(self) -> None:
        super().__init__()
        self.count, self.largest = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        inputs = {x.untyped_storage().data_ptr() for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        made = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
        new = [x for x in made if x.untyped_storage().data_ptr() not in inputs]
        name = func.__name__.split(".")[0]
        self.count += "empty" not in name and (bool(new) or name.endswith("_"))
        self.largest = max([self.largest, *(x.numel() for x in new)])
        return out


def of_a_step(model: Any, beam: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """Operators of a step in which nobody enters, leaves, or ends."""
    steps: list[int] = []
    usual: Callable[..., Any] = Scheduler._step

    def step(scheduler: Any, running: Any, look: bool) -> Any:
        with Operators() as seen:
            found = usual(scheduler, running, look)
        steps.extend([seen.count] if running.batch > 1 else [])  # one sentence alone needs fewer
        return found

    monkeypatch.setattr(Scheduler, "_step", step)
    list(decode(model, sentences(6, 9), SETTINGS, Search(beam=beam, max_extra=20)))
    monkeypatch.setattr(Scheduler, "_step", usual)
    return min(steps)


@pytest.mark.parametrize("beam", [1, 4])
def test_operators_of_a_step(beam: int, monkeypatch: pytest.MonkeyPatch) -> None:
    two, three = (of_a_step(build(layers=layers), beam, monkeypatch) for layers in (2, 3))
    assert three - two <= 30  # a layer: 6 products with weights, 4 of attention, 2 softmax, 3 norms, and so on
    assert two - 2 * (three - two) <= 60  # embedding, logits, ranking, bookkeeping


@pytest.mark.skipif(native.library() is None, reason="there is no C compiler here")
@pytest.mark.parametrize("beam", [1, 4])
def test_native_kernels_leave_few_operators_to_a_step(beam: int, monkeypatch: pytest.MonkeyPatch) -> None:
    models = [build(layers=layers, width=2 * native.LANES) for layers in (2, 3)]
    two, three = (of_a_step(prepare(model, torch.int8), beam, monkeypatch) for model in models)
    assert three == two  # the layers are one call
    assert two <= 45  # embedding and bookkeeping


def test_sentences_are_encoded_with_others_of_their_length() -> None:
    model, positions = build(), 0
    inputs = [[5] * (3 + i % 40) for i in range(400)]

    def count(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal positions
        positions += inputs[0].shape[0] * inputs[0].shape[1]

    model.encoder.layers[0].feedforward.register_forward_hook(count)
    list(decode(model, inputs, SETTINGS, Search(beam=1, max_extra=1), batch_tokens=20_000))
    assert positions <= 1.1 * sum(len(ids) + 1 for ids in inputs)  # all at once would be 1.8 times as many


def test_beams_reorder_without_touching_keys_and_values() -> None:
    model, parents = build(), torch.tensor([[1, 0, 0, 2], [3, 3, 1, 0]])
    memory = model.encode(padded(sentences(2, 9), SETTINGS.pad, "cpu"))
    state = model.start(memory, 4, 30, 2)
    with torch.inference_mode():
        model.step(torch.full((2, 1), 2), state, torch.ones(2, dtype=torch.int64))
        for _ in range(3):
            model.step(torch.full((2, 4), 5), state, None)
        kept = [(cache.key.data_ptr(), cache.value.data_ptr()) for cache in state.caches]
        with Operators() as seen:
            state.follow(parents)
        assert [(cache.key.data_ptr(), cache.value.data_ptr()) for cache in state.caches] == kept
    assert seen.count == 1 and seen.largest == state.slots.visible.numel()


def test_logits_are_made_a_few_rows_at_a_time() -> None:
    model = build(vocabulary=40_000)
    with Operators() as seen:
        list(decode(model, sentences(40, 9), SETTINGS, Search(beam=5, max_extra=4)))
    assert 32 * 40_000 <= seen.largest <= max(32 * 40_000, LOGITS)  # not the 200 rows that are decoded at once


@pytest.mark.skipif(native.library() is None, reason="there is no C compiler here")
@pytest.mark.parametrize("beam", [1, 4])
def test_native_kernels_compute_nothing_for_finished_sentences(beam: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows, usual = prepare(build(width=2 * native.LANES)), 0, native.Native.stack

    def stack(kernels: Any, stack: Any, call: Any) -> None:
        nonlocal rows
        rows += call.rows.count if call.cache and call.rows.queries == beam else 0
        usual(kernels, stack, call)

    monkeypatch.setattr(native.Native, "stack", stack)
    search = Search(beam=beam, max_extra=20, stopping="first")
    results = list(decode(model, sentences(300, 9), SETTINGS, search, batch_tokens=500 * beam))
    tokens = beam * sum(len(result.hypotheses[0].ids) + 1 for result in results)
    assert rows <= tokens if beam == 1 else rows <= 1.5 * tokens  # beams end later than their best hypothesis


def test_few_rows_are_computed_for_finished_sentences() -> None:
    model, rows = build(), 0

    def count(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal rows
        rows += inputs[0].shape[0]

    model.decoder.layers[0].feedforward.register_forward_hook(count)
    results = list(decode(model, sentences(300, 9), SETTINGS, Search(beam=1, max_extra=20), batch_tokens=500))
    tokens = sum(len(result.hypotheses[0].ids) + 1 for result in results)
    assert tokens <= rows <= 1.25 * tokens
