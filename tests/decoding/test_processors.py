"""Processors against Hugging Face's: the same tokens are kept, with the same probabilities."""

from __future__ import annotations

import pytest
import torch

from regard.decoding import processors
from regard.decoding.sampling import Sampling

transformers = pytest.importorskip("transformers")


def scores(seed: int = 0, rows: int = 40, vocabulary: int = 60) -> torch.Tensor:
    torch.manual_seed(seed)
    found = torch.randn(rows, vocabulary) * torch.linspace(0.0, 6.0, rows)[:, None]  # the first row is flat: ties
    found[5] = torch.randint(0, 4, (vocabulary,)).float()  # many ties
    found[7, 3:] = -torch.inf
    return found


KINDS = {
    "temperature": ("TemperatureLogitsWarper", [0.05, 0.7, 1.0, 3.0]),
    "top_k": ("TopKLogitsWarper", [1, 3, 59, 60, 500]),
    "top_p": ("TopPLogitsWarper", [0.0, 0.1, 0.5, 0.95, 1.0]),
    "min_p": ("MinPLogitsWarper", [0.0, 0.01, 0.2, 1.0]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_is_hugging_faces(kind: str) -> None:
    name, values = KINDS[kind]
    for value in values:
        for given in (scores(), scores(1).log_softmax(1)):
            expected = getattr(transformers, name)(value)(None, given)
            found = getattr(processors, kind)(given, value)
            assert torch.equal(found, expected)
            assert torch.equal(found.softmax(1), expected.softmax(1))


def test_all_of_them_in_hugging_faces_order() -> None:
    given = scores(2).log_softmax(1)
    found = expected = given
    for process in Sampling(temperature=0.8, top_k=20, top_p=0.9, min_p=0.03).processors():
        found = process(found)
    for name, value in (("Temperature", 0.8), ("TopK", 20), ("TopP", 0.9), ("MinP", 0.03)):
        expected = getattr(transformers, f"{name}LogitsWarper")(value)(None, expected)
    assert torch.equal(found, expected)
    assert Sampling().processors() == [] == Sampling(temperature=0).processors()


def test_ids_that_may_not_be_chosen() -> None:
    given = torch.randn(2, 6, generator=torch.Generator().manual_seed(3))
    assert processors.suppress(given, torch.tensor([1, 4])).isinf().nonzero().tolist() == [
        [0, 1], [0, 4], [1, 1], [1, 4]
    ]  # fmt: skip
    found = processors.ban(given, torch.tensor([[0, -1, 0], [-1, -1, 5]]))
    assert found.isinf().nonzero().tolist() == [[0, 0], [1, 5]] and given.isfinite().all()
