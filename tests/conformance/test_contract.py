"""Every model, memory and state has what models/contract.py says, with the same arguments."""

from __future__ import annotations

import inspect

import pytest
from thin import MODELS, build, memory_of
from torch import nn

from regard.models import contract, registry

METHODS = {
    contract.Model: ("encode", "logits", "output_table", "start", "step"),
    contract.LabelModel: ("label_scores",),
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


def test_a_model_has_the_contract(name: str, model: nn.Module) -> None:
    has(model, contract.Model)
    assert isinstance(model.has_source, bool) and isinstance(model.width, int) and isinstance(model.ties, dict)
    assert model.longest is None or model.longest > 0
    if registry.capabilities(MODELS[name]["architecture"]).labels:
        has(model, contract.LabelModel)


def test_a_model_that_generates_has_states(decoder: nn.Module) -> None:
    model = decoder
    has(model, contract.Model)
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


def test_a_state_of_another_kind_is_refused(generating: str) -> None:
    with pytest.raises(AssertionError, match="another kind of model"):
        build(generating).step(None, object())


def test_a_model_that_does_not_generate_has_no_steps(name: str, model: nn.Module) -> None:
    if registry.capabilities(MODELS[name]["architecture"]).generates:
        return
    with pytest.raises(TypeError, match="does not generate"):
        model.start(None, 1, 10, 2)
    with pytest.raises(TypeError, match="does not generate"):
        model.step(None, None)
