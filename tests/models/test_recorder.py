"""The recorder on modules of its own: what is kept is kept, whatever the model does with it afterwards."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

import regard
from regard.errors import RegardError
from regard.nn.layout import Layout
from regard.nn.multihead import Core


class Pair(NamedTuple):
    first: Tensor
    second: int


class Twice(nn.Module):
    """Calls its part twice and changes in place what came out."""

    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Identity()
        self.pair = _Pairing()

    def forward(self, x: Tensor) -> Pair:
        for _ in range(2):
            x = self.part(x.clone())
            x += 1
        out: Pair = self.pair(x)
        return out


class _Pairing(nn.Module):
    def forward(self, x: Tensor) -> Pair:
        return Pair(x, 3)


def test_outputs_are_copies_of_every_call() -> None:
    model = Twice()
    with regard.record(model, outputs="pa*") as trace:
        model(torch.zeros(2)).first.fill_(9)
    assert [call.tolist() for call in trace.outputs["part"]] == [[0, 0], [1, 1]]
    kept = trace.output("pair")
    assert isinstance(kept, Pair) and kept.first.tolist() == [2, 2] and kept.second == 3
    with pytest.raises(RegardError, match="'part' was called 2 times, not once"):
        trace.output("part")


def test_weights_are_computed_at_once() -> None:
    """A cache that is written over after the call does not change what was recorded."""
    model = nn.Module()
    model.core = Core()
    query, key = torch.randn(1, 2, 3, 4), torch.randn(1, 1, 5, 4)
    with regard.record(model, {"core": [1]}) as trace:
        model.core(query, key, key, Layout())
        expected = (query[:, 1:] @ key.transpose(-2, -1) / 2).softmax(-1)
        key.zero_()
        model.core(query, key, key, Layout())
    torch.testing.assert_close(trace.attention["core"][0], expected)
    assert trace.weights("core").shape == (1, 1, 6, 5)
    trace.clear()
    assert trace.attention == {"core": []}


def test_a_bias_for_each_head_goes_with_its_head() -> None:
    model = nn.Module()
    model.core = Core()
    query, key, bias = torch.randn(2, 4, 3, 4), torch.randn(2, 2, 5, 4), torch.randn(1, 4, 3, 5)
    recorded = {}
    for heads in (None, [3, 0]):
        with regard.record(model, heads) as trace:
            model.core(query, key, key, Layout(), bias=bias, scale=0.7)
        recorded[str(heads)] = trace.weights("core")
    torch.testing.assert_close(recorded["[3, 0]"], recorded["None"][:, [3, 0]])


def test_different_keys_are_not_joined() -> None:
    model = nn.Module()
    model.core = Core()
    with regard.record(model) as trace:
        for size in (2, 3):
            key = torch.randn(1, 1, size, 4)
            model.core(torch.randn(1, 1, 1, 4), key, key, Layout())
    with pytest.raises(RegardError, match="called 2 times with different keys"):
        trace.weights("core")
