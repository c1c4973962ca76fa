"""Two-way changes between the tensors of someone else's checkpoint and ours: a closed list of steps that compose.

Steps lead from their tensors to ours, one after another, and each has an inverse that is exact to the bit. A tensor of
a shape that a step does not take is a ``Misfit``.

    transpose()             a matrix, transposed (a linear layer stored as [in, out])
    split(*sizes)           one tensor of theirs holds several of ours, one after another along the first axis
    join(*sizes)            several of theirs are one of ours: the inverse of split
    stack(), unstack()      several of theirs are one of ours along a new first axis, and the inverse
    reshape(ours, theirs)   the same numbers in another shape
    rows(order)             our row i is their row order[i]
    pad(before, after)      they have more rows than we do, before and after ours, all of one value
    scaled(factor)          ours is theirs times a power of two
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Tensors = list[Tensor]
Shape = tuple[int, ...]


class Misfit(ValueError):
    """Tensors whose shapes or values a step does not take; the entry that it belongs to names them."""


@dataclass(frozen=True)
class Step:
    """One change of a list of tensors, in both directions; a ``Misfit`` where the tensors do not fit."""

    to_ours: Callable[[Tensors], Tensors]
    to_theirs: Callable[[Tensors], Tensors]


def transpose() -> Step:
    """The matrix transposed."""

    def transposed(tensors: Tensors) -> Tensors:
        for tensor in tensors:
            expect(tensor.dim() == 2, "a matrix")
        return [tensor.T for tensor in tensors]

    return Step(transposed, transposed)


def join(*sizes: int) -> Step:
    """Several tensors of theirs, of ``sizes`` along the first axis, are one of ours."""

    def together(tensors: Tensors) -> Tensors:
        found = [tensor.shape[0] if tensor.dim() else 0 for tensor in tensors]
        expect(found == list(sizes), f"{len(sizes)} tensors of {_listed(sizes)} rows")
        expect(len({tensor.shape[1:] for tensor in tensors}) == 1, "the same size along every other axis")
        return [torch.cat(tensors)]

    def apart(tensors: Tensors) -> Tensors:
        (tensor,) = tensors
        expect(tensor.dim() > 0 and tensor.shape[0] == sum(sizes), f"{' + '.join(map(str, sizes))} rows")
        return list(torch.split(tensor, list(sizes)))

    return Step(together, apart)


def split(*sizes: int) -> Step:
    """One tensor of theirs holds several of ours, of ``sizes`` along the first axis."""
    return _reversed(join(*sizes))


def stack() -> Step:
    """Several tensors of theirs are one of ours, along a new first axis; ours says how many."""

    def together(tensors: Tensors) -> Tensors:
        expect(len({tensor.shape for tensor in tensors}) == 1, "tensors of one shape")
        return [torch.stack(tensors)]

    def apart(tensors: Tensors) -> Tensors:
        (tensor,) = tensors
        expect(tensor.dim() > 0, "at least one axis")
        return list(tensor.unbind())

    return Step(together, apart)


def unstack() -> Step:
    """One tensor of theirs holds several of ours along its first axis; without that axis each is ours."""
    return _reversed(stack())


def reshape(ours: Shape, theirs: Shape) -> Step:
    """The same numbers, in their order, in another shape."""
    if math.prod(ours) != math.prod(theirs):
        raise ValueError(f"{ours} and {theirs} do not hold as many numbers")

    def into(before: Shape, after: Shape) -> Callable[[Tensors], Tensors]:
        def reshaped(tensors: Tensors) -> Tensors:
            for tensor in tensors:
                expect(tuple(tensor.shape) == before, f"{list(before)}")
            return [tensor.reshape(after) for tensor in tensors]

        return reshaped

    return Step(into(theirs, ours), into(ours, theirs))


def rows(order: Sequence[int]) -> Step:
    """Our row i is their row ``order[i]``; ``order`` has each row once."""
    forth = torch.tensor(list(order))
    back = torch.argsort(forth)
    if sorted(order) != list(range(len(order))):
        raise ValueError("an order of rows has each row once")

    def ordered(index: Tensor) -> Callable[[Tensors], Tensors]:
        def changed(tensors: Tensors) -> Tensors:
            for tensor in tensors:
                expect(tensor.dim() > 0 and tensor.shape[0] == len(index), f"{len(index)} rows")
            return [tensor[index.to(tensor.device)] for tensor in tensors]

        return changed

    return Step(ordered(forth), ordered(back))


def pad(before: int, after: int, value: float = 0.0) -> Step:
    """Their first ``before`` rows and last ``after`` rows are all ``value``, and none of ours."""

    def cut(tensors: Tensors) -> Tensors:
        (tensor,) = tensors
        expect(tensor.dim() > 0 and tensor.shape[0] > before + after, f"more than {before + after} rows")
        kept = tensor[before : tensor.shape[0] - after]
        if tensor.device.type != "meta":
            rest = torch.cat([tensor[:before], tensor[tensor.shape[0] - after :]])
            expect(bool((rest == value).all()), f"{before} rows before and {after} after that are all {value:g}")
        return [kept]

    def filled(tensors: Tensors) -> Tensors:
        (tensor,) = tensors
        expect(tensor.dim() > 0, "at least one axis")
        around = [tensor.new_full((count, *tensor.shape[1:]), value) for count in (before, after)]
        return [torch.cat([around[0], tensor, around[1]])]

    return Step(cut, filled)


def scaled(factor: float) -> Step:
    """Ours is theirs times ``factor``, a power of two."""
    if factor == 0 or math.frexp(abs(factor))[0] != 0.5:
        raise ValueError(f"factor={factor} must be a power of two: others are not exact both ways")
    return Step(lambda tensors: [t * factor for t in tensors], lambda tensors: [t / factor for t in tensors])


def expect(good: bool, expected: str) -> None:
    if not good:
        raise Misfit(expected)


def _reversed(step: Step) -> Step:
    return Step(step.to_theirs, step.to_ours)


def _listed(sizes: Sequence[int]) -> str:
    return ", ".join(map(str, sizes))
