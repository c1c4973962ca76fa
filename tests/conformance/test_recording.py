"""Recorded numbers are true, and recording changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from thin import close, memory_of, sentences, targets
from torch import Tensor, nn

import regard
from regard.errors import RegardError
from regard.models import registry
from regard.models.recorder import attentions, watched
from regard.nn.sequences import Memory

LENGTHS, SOURCES = [3, 6, 1], [5, 2, 4]


def run(model: nn.Module) -> tuple[Tensor, Memory | None]:
    memory = memory_of(model, SOURCES)
    return model(targets(model, LENGTHS), memory).hidden, memory


def generates(model: nn.Module) -> bool:
    return registry.capabilities(registry.architecture_of(model.options)).generates


def steps(model: nn.Module) -> list[Tensor]:
    """A ragged prompt and three steps of beams that reorder, of a model that generates."""
    if not generates(model):
        return []
    state, prompt = model.start(memory_of(model, SOURCES), 2, 12, 3), sentences([2, 1, 3])
    hidden = [model.step(prompt.ids, state, prompt.lengths)]
    for number in range(3):
        state.follow(torch.tensor([[1, 0], [0, 0], [1, 1]]))
        hidden.append(model.step(torch.tensor([[4, 5], [6, 7], [8, 9]]) + number, state, None))
    return hidden


def test_outputs_are_bit_identical(model: nn.Module) -> None:
    with torch.inference_mode():
        hidden, memory = run(model)
        stepped = steps(model)
        with regard.record(model, outputs="*"):
            again, memory_again = run(model)
            stepped_again = steps(model)
    assert torch.equal(hidden, again)
    assert memory is None or (memory_again is not None and torch.equal(memory.hidden, memory_again.hidden))
    assert all(torch.equal(a, b) for a, b in zip(stepped, stepped_again, strict=True))


def test_gradients_are_bit_identical(model: nn.Module) -> None:
    def gradients() -> list[Tensor]:
        model.zero_grad()
        run(model)[0].square().sum().backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    plain = gradients()
    with regard.record(model, outputs="*"):
        recorded = gradients()
    assert all(torch.equal(a, b) for a, b in zip(plain, recorded, strict=True))


def test_weights_sum_to_one_and_padding_gets_none(model: nn.Module) -> None:
    with regard.record(model) as trace:
        run(model)
    assert list(trace.attention) == attentions(model) and attentions(model)
    for name in attentions(model):
        weights = trace.weights(name)  # [B, H, Q, S]
        keys = SOURCES if "cross" in name or name.startswith("encoder") else LENGTHS
        queries = SOURCES if name.startswith("encoder") else LENGTHS
        assert weights.shape[2:] == (max(queries), max(keys))
        assert not weights.requires_grad
        for b, (query, key) in enumerate(zip(queries, keys, strict=True)):
            close(weights[b, :, :query].sum(-1), torch.ones(weights.shape[1], query, dtype=torch.float64))
            assert (weights[b, :, :query] >= 0).all()
            assert not weights[b, :, :query, key:].any()
        if name.startswith("decoder") and "cross" not in name and generates(model):
            assert not weights.triu(1).any()


def test_weights_are_those_that_were_used(model: nn.Module) -> None:
    """Weights times values is what the core returned, also in cached steps."""
    values: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def see(name: str) -> Any:
        def hook(_: nn.Module, args: Any, out: Tensor) -> None:
            values.setdefault(name, []).append((args[2].clone(), out.clone()))

        return hook

    for name in attentions(model):
        model.get_submodule(f"{name}.core").register_forward_hook(see(name))
    with torch.inference_mode(), regard.record(model) as trace:
        run(model)
        steps(model)
    for name, calls in values.items():
        assert len(calls) == len(trace.attention[name])
        for weights, (value, out) in zip(trace.attention[name], calls, strict=True):
            value = value.repeat_interleave(weights.shape[1] // value.shape[1], dim=1)
            close(weights @ value, out)


def test_chosen_heads_are_the_same_rows(model: nn.Module) -> None:
    name = attentions(model)[-1]
    with regard.record(model) as trace:
        run(model)
    every = trace.weights(name)
    last = every.shape[1] - 1
    with regard.record(model, {name: [last]}) as trace:
        run(model)
    assert list(trace.attention) == [name] and trace.heads == {name: (last,)}
    close(trace.weights(name), every[:, last:])
    with regard.record(model, []) as trace:
        run(model)
    assert not trace.attention


def test_outputs_of_modules(model: nn.Module) -> None:
    with regard.record(model, [], outputs=["target_embedding", "decoder*"]) as trace:
        hidden, _ = run(model)
    embedded = trace.output("target_embedding")
    assert embedded.shape == hidden.shape
    target = targets(model, LENGTHS)
    close(embedded, model.target_embedding(target.ids, segments=target.segments))
    assert all(name.startswith(("target_embedding", "decoder")) for name in trace.outputs)


def test_watched_while_it_lasts(model: nn.Module) -> None:
    assert not watched(model)
    with regard.record(model), regard.record(model.decoder):
        assert watched(model)
    assert not watched(model)
    with pytest.raises(ZeroDivisionError), regard.record(model.decoder):
        assert watched(model) and watched(model.decoder)
        raise ZeroDivisionError
    assert not watched(model)
    assert not any(module._forward_hooks for module in model.modules())


def test_mistakes_are_named(model: nn.Module) -> None:
    name = attentions(model)[0]
    with (
        pytest.raises(RegardError, match=f"no attention '{name}x' — did you mean '{name}'"),
        regard.record(model, {f"{name}x": None}),
    ):
        pass
    with (
        pytest.raises(RegardError, match="no module 'decodr' — did you mean 'decoder'"),
        regard.record(model, outputs="decodr"),
    ):
        pass
    with pytest.raises(RegardError, match=r"counted from 0: there is no head 7"), regard.record(model, [7]):
        run(model)
    with regard.record(model, {name: None}) as trace:
        with pytest.raises(RegardError, match="has not been called"):
            trace.weights(name)
        with pytest.raises(RegardError, match="no attention 'other' is recorded"):
            trace.weights("other")
    assert not watched(model)
