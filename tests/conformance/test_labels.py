"""Models whose tokens see each other, and their scores of labels: padding and packed rows change nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from thin import GENERATING, LABELLING, MODELS, V, build, close, one, oracle, prepared, result, targets, without_dropout
from torch import Tensor, nn

from regard.models import registry
from regard.models.heads import TextLabels
from regard.nn.padding import real
from regard.nn.sequences import Tokens

LENGTHS = [3, 7, 1, 5]
BIDIRECTIONAL = [name for name in MODELS if name not in GENERATING]


@pytest.fixture(params=LABELLING)
def labelling(request: pytest.FixtureRequest) -> str:
    """The lines of the table whose models give scores of labels."""
    return str(request.param)


def of_texts(name: str) -> bool:
    return isinstance(registry.options_from(MODELS[name]).head, TextLabels)


def test_shapes(labelling: str) -> None:
    model = build(labelling)
    scores = model.label_scores(targets(model, LENGTHS))
    labels = len(model.options.labels) or 2
    assert scores.shape == ((4, labels) if of_texts(labelling) else (4, 7, labels))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_a_padded_batch_equals_the_texts_one_by_one(labelling: str, dtype: torch.dtype, tolerance: float) -> None:
    model = build(labelling, dtype=dtype)
    target = targets(model, LENGTHS)
    together = model.label_scores(target)
    for b, length in enumerate(LENGTHS):
        of_one = together[b : b + 1] if of_texts(labelling) else together[b : b + 1, :length]
        close(of_one, model.label_scores(one(target, b)), tolerance)


@pytest.mark.parametrize("name", BIDIRECTIONAL)
def test_a_prepared_model_gives_the_same(name: str) -> None:
    """In fp32; also a model that has no output table."""
    model = prepared(name)
    target = targets(oracle(model), LENGTHS)
    with torch.inference_mode():
        got, expected = (result(each, target, None) for each in (model, oracle(model)))
    if name in LABELLING and of_texts(name):
        close(got, expected)
    else:
        where = real(target.lengths, target.ids.shape[1])
        close(got[where], expected[where])


def test_training_on_packed_rows_computes_what_evaluation_does(labelling: str) -> None:
    """Scores and all gradients, those of segments too."""
    model = build(labelling)
    without_dropout(model)
    target = targets(model, LENGTHS)
    assert target.packed(True) is not None
    scores: list[Tensor] = []
    gradients: list[list[Tensor]] = []
    for training in (False, True):
        model.train(training).zero_grad()
        found = model.label_scores(target)
        if not of_texts(labelling):
            found = found * real(target.lengths, found.shape[1])[..., None]
        weight = torch.randn(found.shape, generator=torch.Generator().manual_seed(3), dtype=found.dtype)
        (found * weight).sum().backward()
        scores.append(found.detach())
        gradients.append([parameter.grad for parameter in model.parameters()])
    close(scores[1], scores[0])
    for packed, padded in zip(gradients[1], gradients[0], strict=True):
        close(packed, padded)


@pytest.mark.parametrize("name", BIDIRECTIONAL)
def test_every_token_sees_all_others(name: str) -> None:
    model = build(name)
    target = targets(model, [6, 4])
    changed = target.ids.clone()
    changed[:, 3] = (changed[:, 3] - 4 + 1) % (V - 4) + 4
    before, after = (model(replace(target, ids=ids), None).hidden for ids in (target.ids, changed))
    assert ((after - before)[:, [0, 1, 2, 3]].abs().amax(-1) > 1e-4).all()


@pytest.mark.parametrize("name", BIDIRECTIONAL)
def test_segments_matter_and_none_is_the_first(name: str) -> None:
    model = build(name)
    target = replace(targets(model, [6, 4]), segments=None)
    plain = model(target, None).hidden
    zeros = replace(target, segments=torch.zeros_like(target.ids))
    if not model.options.segments:
        with pytest.raises(ValueError, match="no vectors of segments"):
            model(zeros, None)
        return
    close(model(zeros, None).hidden, plain)
    second = model(replace(zeros, segments=torch.ones_like(target.ids)), None).hidden
    assert (second - plain).abs().max() > 1e-3


def test_a_model_without_labels_gives_none(model: nn.Module) -> None:
    if getattr(model, "head", None) is None and hasattr(model, "label_scores"):
        with pytest.raises(TypeError, match="no scores of labels"):
            model.label_scores(Tokens(torch.zeros(1, 1, dtype=torch.int64), torch.ones(1, dtype=torch.int64)))
