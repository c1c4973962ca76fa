"""The whole pass: shapes, padding that changes nothing, a future that is not seen, gradients for every parameter."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from thin import MODELS, V, alone, build, close, memory_of, one, result, sentences, targets, without_dropout
from torch import nn

from regard.accel.ways import switched_on
from regard.models import registry
from regard.nn.padding import real
from regard.nn.sequences import Memory, Tokens

LENGTHS = [3, 7, 1, 5]
SOURCES = [6, 2, 4, 1]


def test_every_registered_architecture_is_in_the_table() -> None:
    assert {line["architecture"] for line in MODELS.values()} == set(registry.ARCHITECTURES)


def test_every_kind_of_a_part_is_in_the_table() -> None:
    used = [each for line in MODELS.values() for each in parts(registry.to_dict(registry.options_from(line)))]
    for part, kinds in registry.PARTS.items():
        assert {kind for name, kind in used if name == part} == set(kinds), part


def parts(options: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The name and the kind of every part, and of the parts of parts."""
    for name, value in options.items():
        if isinstance(value, dict):
            yield name, value["kind"]
            yield from parts(value)


def test_the_registry_says_what_a_model_can(name: str, model: nn.Module) -> None:
    can = registry.capabilities(MODELS[name]["architecture"])
    assert can.source == model.has_source and (can.labels or getattr(model, "head", None) is None)


def test_shapes(model: nn.Module) -> None:
    output = model(targets(model, LENGTHS), memory_of(model, SOURCES))
    assert output.hidden.shape == (4, 7, model.width)
    assert all(loss.dim() == 0 for loss in output.losses.values())
    if not model.has_scores:
        with pytest.raises(TypeError, match="no scores of tokens"):
            model.logits(output.hidden)
        return
    logits = model.logits(output.hidden)
    assert logits.shape == (4, 7, V)
    some = torch.tensor([5, 2, 11])
    close(model.logits(output.hidden, some), logits[..., some])
    table, bias = model.output_table()
    assert table.shape == (V, model.width) and (bias is None or bias.shape == (V,))
    close(nn.functional.linear(output.hidden, table, bias), logits)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_a_padded_batch_equals_the_sentences_one_by_one(name: str, dtype: torch.dtype, tolerance: float) -> None:
    model = build(name, dtype=dtype)
    target, memory = targets(model, LENGTHS), memory_of(model, SOURCES)
    together = model(target, memory).hidden
    for b, length in enumerate(LENGTHS):
        by_itself = memory_of_one(model, b)
        if memory is not None:
            close(memory.hidden[b : b + 1, : SOURCES[b]], by_itself.hidden, tolerance)
        close(together[b : b + 1, :length], model(one(target, b), by_itself).hidden, tolerance)


@pytest.mark.parametrize("ways", [contextlib.nullcontext, switched_on], ids=["plain", "switched on"])
def test_training_computes_what_evaluation_does(name: str, ways: Callable[[], AbstractContextManager[None]]) -> None:
    """Training leaves padding out where it can, and goes by faster ways, of which most know fp32 only.

    Outputs at real tokens and all gradients stay what they were.
    """
    model = build(name, dtype=torch.float32 if ways is switched_on else torch.float64)
    without_dropout(model)
    target = targets(model, LENGTHS)
    where = real(target.lengths, target.ids.shape[1])[..., None]
    outputs, gradients = [], []
    for training in (False, True):
        model.train(training)
        model.zero_grad()
        with ways() if training else contextlib.nullcontext():
            hidden = model(target, memory_of(model, SOURCES)).hidden * where
            weight = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(3), dtype=hidden.dtype)
            (hidden * weight).sum().backward()
        outputs.append(hidden.detach())
        gradients.append([weight.grad for weight in model.parameters() if weight.grad is not None])
    close(outputs[1], outputs[0])
    assert len(gradients[0]) == len(gradients[1])
    for packed, padded in zip(gradients[1], gradients[0], strict=True):
        close(packed, padded)


def memory_of_one(model: nn.Module, b: int) -> Memory | None:
    return model.encode(one(sentences(SOURCES, seed=1), b)) if model.has_source else None


def test_no_position_sees_what_comes_after_it(generating: str) -> None:
    model = build(generating)
    target, memory = sentences([6, 6]), memory_of(model, [4, 3])
    changed = target.ids.clone()
    changed[:, 3:] = (changed[:, 3:] - 4 + 1) % (V - 4) + 4
    before, after = (model(Tokens(ids, target.lengths), memory).hidden for ids in (target.ids, changed))
    close(after[:, :3], before[:, :3])
    assert (after[:, 3:] - before[:, 3:]).abs().max() > 1e-3


def test_the_source_matters(model: nn.Module) -> None:
    if not model.has_source:
        return
    target = sentences([5])
    first, second = (model(target, memory_of(model, [4], seed)).hidden for seed in (1, 2))
    assert (first - second).abs().max() > 1e-3


def test_every_parameter_learns(name: str) -> None:
    model = build(name, dtype=torch.float32).train()
    target, memory = targets(model, LENGTHS), memory_of(model, SOURCES)
    scores = result(model, target, memory).flatten(0, -2)
    nn.functional.cross_entropy(scores, torch.randint(0, scores.shape[1], scores.shape[:1])).backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not without
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_options_are_described_and_read_back(name: str, model: nn.Module) -> None:
    options = registry.options_from(MODELS[name])
    assert registry.options_from(registry.to_dict(options)) == options == model.options
    described = registry.describe(options, V)
    assert sum(count for _, _, count in described) == sum(p.numel() for p in model.parameters())
    assert {n: shape for n, shape, _ in described} == {n: tuple(p.shape) for n, p in model.named_parameters()}


def test_memory_keeps_chosen_sentences(model: nn.Module) -> None:
    memory = memory_of(model, SOURCES)
    if memory is None:
        return
    kept = memory.keep(torch.tensor([2, 0]))
    assert kept.lengths.tolist() == [4, 6]
    close(alone(kept, 0).hidden, alone(memory, 2).hidden)
