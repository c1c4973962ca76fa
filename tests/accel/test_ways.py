"""Faster ways are on for whoever trains or decodes, and for nobody else; unknown calls go the plain way."""

from __future__ import annotations

import gc
import multiprocessing
import threading
from typing import Any

import pytest
import torch
from toy import ToySettings

from regard.accel.ways import WAYS, switched_on
from regard.decoding.engine import decode
from regard.decoding.search import Search
from regard.models.transformer import Transformer
from regard.nn.ops import Operation
from regard.nn.sequences import Tokens


def build(width: int = 32) -> Any:
    return Transformer(width=width, heads=2, feedforward=48, encoder_layers=2, decoder_layers=2).build(40)


def on() -> bool:
    states = {bool(operation.ways) for operation, _ in WAYS}
    assert len(states) == 1, "all together or none"
    return states.pop()


def test_ways_are_on_inside_and_off_outside() -> None:
    assert not on()
    with switched_on():
        with switched_on():
            assert on()
        assert on()
    assert not on()
    with pytest.raises(ValueError, match="a fault"), switched_on():
        raise ValueError("a fault")
    assert not on()


def test_an_inner_switch_keeps_the_ways_that_somebody_added() -> None:
    operation = WAYS[0][0]
    with switched_on():
        operation.ways = added = (lambda *_: None, *operation.ways)
        with switched_on():
            assert operation.ways is added
        assert operation.ways is added
    assert not on()


def test_a_thread_that_ends_first_leaves_the_others_their_ways() -> None:
    inside, end = threading.Barrier(2), threading.Event()

    def other() -> None:
        with switched_on():
            inside.wait()
            end.wait()

    thread = threading.Thread(target=other)
    thread.start()
    inside.wait()
    with switched_on():
        assert on()
    assert on()
    end.set()
    thread.join()
    assert not on()


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="nothing is forked here")
def test_a_forked_child_can_switch_them_on() -> None:
    def child() -> None:
        with switched_on():
            assert on()

    process = multiprocessing.get_context("fork").Process(target=child)
    with switched_on():
        process.start()
        process.join(20)
    assert process.exitcode == 0


def test_a_decoding_that_is_given_up_switches_them_off() -> None:
    results = decode(build(), [[5, 6, 7]] * 5, ToySettings(), Search(beam=2), batch_tokens=16)
    next(results)
    assert on()
    del results
    gc.collect()
    assert not on()


def test_an_operation_asks_its_ways_in_order_and_is_plain_at_last() -> None:
    asked: list[str] = []

    def way(name: str, knows: int) -> Any:
        def run(x: int) -> str | None:
            asked.append(name)
            return name if x == knows else None

        return run

    operation = Operation(lambda x: f"plain {x}")
    operation.ways = way("first", 1), way("second", 2)
    assert [operation(x) for x in (1, 2, 3)] == ["first", "second", "plain 3"]
    assert asked == ["first", "first", "second", "first", "second"]


def test_ways_equal_the_plain_operations_in_a_whole_update() -> None:
    torch.manual_seed(0)
    model = build(width=64).train()
    tokens = Tokens(torch.randint(4, 40, (3, 7)), torch.tensor([7, 3, 5]))

    def gradients() -> list[torch.Tensor]:
        model.zero_grad()
        torch.manual_seed(1)
        model(tokens, model.encode(tokens)).hidden.square().sum().backward()
        return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]

    plain = gradients()
    with switched_on():
        fast = gradients()
    for one, other in zip(fast, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
