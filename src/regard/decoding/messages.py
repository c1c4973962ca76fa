"""Inputs, results and steps as JSON, which processes that decode send one another."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from regard.decoding.running_batch import Hypothesis, Result
from regard.decoding.scheduler import Step
from regard.decoding.search import Candidates
from regard.decoding.waiting import Input

DTYPES = {str(dtype): dtype for dtype in (torch.int64, torch.bool, torch.float32, torch.float64)}


def of_inputs(inputs: Sequence[Input]) -> list[Any]:
    """Inputs as values of JSON; ids may be of any integer type."""
    return [
        (one.number, None if one.source is None else list(map(int, one.source)), list(map(int, one.prompt)),
         one.language, one.max_tokens)
        for one in inputs
    ]  # fmt: skip


def to_inputs(values: Sequence[Any]) -> list[Input]:
    return [Input(*value) for value in values]


def of_results(results: Sequence[Result]) -> list[Any]:
    return [(one.index, one.hypotheses) for one in results]


def to_results(values: Sequence[Any]) -> list[Result]:
    return [Result(index, [Hypothesis(*each) for each in hypotheses]) for index, hypotheses in values]


def of_step(step: Step) -> dict[str, Any]:
    tensors = {name: _of_tensor(getattr(step, name)) for name in ("parents", "tokens", "scores", "done")}
    found = None if step.candidates is None else list(map(_of_tensor, step.candidates))
    return {
        "sentences": step.sentences, "first": step.first, "candidates": found, "results": of_results(step.results),
        **tensors,
    }  # fmt: skip


def to_step(values: dict[str, Any]) -> Step:
    """A step whose tensors are on the CPU."""
    tensors = {name: _to_tensor(values[name]) for name in ("parents", "tokens", "scores", "done")}
    found = values["candidates"]
    return Step(
        sentences=values["sentences"],
        first=values["first"],
        candidates=None if found is None else Candidates(*map(_to_tensor, found)),
        results=to_results(values["results"]),
        **tensors,
    )


def encoded(values: Any) -> bytes:
    return json.dumps(values).encode()


def decoded(message: bytes) -> Any:
    return json.loads(message)


def _of_tensor(tensor: Tensor) -> tuple[str, list[Any]]:
    return str(tensor.dtype), tensor.tolist()


def _to_tensor(values: Sequence[Any]) -> Tensor:
    return torch.tensor(values[1], dtype=DTYPES[values[0]])
