"""Every model, memory and state has what models/contract.py says, with the same arguments."""

from __future__ import annotations

import inspect

import pytest
from thin import memory_of
from torch import nn

from regard.models import contract

METHODS = {
    contract.Model: ("encode", "logits", "output_table", "start", "step"),
    contract.State: ("follow", "keep", "admit"),
    contract.Memory: ("keep", "join"),
}


def has(thing: object, protocol: type) -> None:
    for name in METHODS[protocol]:
        expected, found = (inspect.signature(getattr(kind, name)) for kind in (protocol, type(thing)))
        shared = list(found.parameters.values())[: len(expected.parameters)]
        assert [(p.name, p.default) for p in shared] == [(p.name, p.default) for p in expected.parameters.values()], (
            name
        )
        more = list(found.parameters.values())[len(expected.parameters) :]
        assert all(p.default is not p.empty for p in more), f"{name} asks for more than the contract gives"


def test_a_model_has_the_contract(decoder: nn.Module) -> None:
    model = decoder
    has(model, contract.Model)
    assert isinstance(model.has_source, bool) and isinstance(model.width, int) and isinstance(model.ties, dict)
    assert model.longest is None or model.longest > 0
    memory = memory_of(model, [3, 5])
    if memory is not None:
        has(memory, contract.Memory)
    state = model.start(memory, 3, 10, 2)
    has(state, contract.State)
    assert (state.batch, state.beams) == (2, 3)


def test_a_model_without_a_source_encodes_nothing(model: nn.Module) -> None:
    if not model.has_source:
        with pytest.raises(TypeError, match="no source"):
            model.encode(None)


def test_a_state_of_another_kind_is_refused(model: nn.Module) -> None:
    with pytest.raises(AssertionError, match="another kind of model"):
        model.step(None, object())
