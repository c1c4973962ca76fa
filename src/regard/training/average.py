"""Averages of weights: the mean of several checkpoints, and a running average during training."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from regard.errors import RegardError
from regard.models.contract import Model


def average(many: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of several sets of weights, name by name, summed in fp64; one set at a time is in memory.

    Floating-point tensors are averaged and keep their dtype; all others are taken from the last set.
    """
    total: dict[str, Tensor] = {}
    last: Mapping[str, Tensor] = {}
    count = 0
    for weights in many:
        if total and weights.keys() != last.keys():
            odd = sorted(weights.keys() ^ last.keys())[0]
            raise RegardError(f"weights cannot be averaged: '{odd}' is not in all of them")
        for name, tensor in weights.items():
            if not tensor.is_floating_point():
                continue
            if name in total and total[name].shape != tensor.shape:
                raise RegardError(f"weights cannot be averaged: '{name}' has different shapes")
            total[name] = total[name] + tensor if name in total else tensor.double()
        last, count = weights, count + 1
    if not count:
        raise RegardError("weights cannot be averaged: none were given")
    return {name: (total[name] / count).to(tensor.dtype) if name in total else tensor for name, tensor in last.items()}


@torch.no_grad()
def follow(ema: dict[str, Tensor], weights: Mapping[str, Tensor], decay: float, step: int) -> None:
    """Move the running average ``ema`` towards the weights, in place; at first it is about the mean of all steps."""
    slow = min(decay, step / (step + 9))  # a short memory first, so that the random start is soon forgotten
    names = [name for name, tensor in ema.items() if tensor.is_floating_point()]
    torch._foreach_lerp_([ema[name] for name in names], [weights[name] for name in names], 1.0 - slow)


@contextlib.contextmanager
def swapped(model: Model, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """The model with these parameters inside; an empty mapping changes nothing."""
    parameters = dict(model.named_parameters())
    own = {name: parameters[name].data for name in weights}
    for name, tensor in weights.items():
        parameters[name].data = tensor
    try:
        yield
    finally:
        for name, tensor in own.items():
            parameters[name].data = tensor
