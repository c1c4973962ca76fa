"""Two-way tables between the names and shapes of someone else's checkpoint and ours.

A table is a list of entries from the closed list below; each can be read in both directions, so that import and export
are one declaration, and import ∘ export is the identity. Both directions are strict: every tensor is used exactly once.

    same(ours, theirs)                  the tensor as it is
    transpose(ours, theirs)             its transpose (a linear layer stored as [in, out])
    join(ours, theirs)                  one side has several names: its tensors one after another along the first axis
    stack(ours, theirs)                 one side has several names: its tensors along a new first axis
    pad(ours, theirs, rows, …)          they have more rows than we do (a vocabulary rounded up)
    constant(theirs, value)             they store what we compute, such as sinusoids
    absent(theirs, copy_of)             they may store a tied tensor again
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor

from regard.errors import RegardError, nearest

Tensors = list[Tensor]
Names = str | Sequence[str]


@dataclass(frozen=True)
class Entry:
    """Tensors of ours and of theirs that hold the same numbers, and how to get from one to the other."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    to_ours: Callable[[Tensors], Tensors] = list
    to_theirs: Callable[[Tensors], Tensors] = list
    optional: bool = False  # their file may lack it
    copy_of: str = ""  # a copy of this tensor of theirs
    expected: Tensor | None = None  # the value that it always has


def same(ours: str, theirs: str) -> Entry:
    """The tensor as it is."""
    return Entry((ours,), (theirs,))


def transpose(ours: str, theirs: str) -> Entry:
    """The matrix transposed."""

    def transposed(tensors: Tensors) -> Tensors:
        return [tensor.T for tensor in tensors]

    return Entry((ours,), (theirs,), transposed, transposed)


def join(ours: Names, theirs: Names, sizes: Sequence[int] | None = None) -> Entry:
    """One side's several tensors one after another along the first axis; ``sizes`` of the parts where they differ."""

    cuts = list(accumulate(sizes[:-1])) if sizes else []

    def together(tensors: Tensors) -> Tensors:
        return [torch.cat(tensors)]

    def apart(count: int) -> Callable[[Tensors], Tensors]:
        return lambda tensors: list(tensors[0].tensor_split(cuts) if sizes else tensors[0].chunk(count))

    return _many(ours, theirs, together, apart)


def stack(ours: Names, theirs: Names) -> Entry:
    """One side's several tensors along a new first axis."""

    def together(tensors: Tensors) -> Tensors:
        return [torch.stack(tensors)]

    def apart(count: int) -> Callable[[Tensors], Tensors]:
        return lambda tensors: list(tensors[0].unbind())

    return _many(ours, theirs, together, apart)


def pad(ours: str, theirs: str, rows: int, their_rows: int, value: float = 0.0) -> Entry:
    """They have ``their_rows``, of which the first ``rows`` are ours; the others are ``value``."""

    def filled(tensors: Tensors) -> Tensors:
        more = tensors[0].new_full((their_rows - rows, *tensors[0].shape[1:]), value)
        return [torch.cat([tensors[0], more])]

    return Entry((ours,), (theirs,), lambda tensors: [tensors[0][:rows]], filled)


def constant(theirs: str, value: Tensor, optional: bool = True) -> Entry:
    """They store ``value``, which we compute: compared when it is read; an ``optional`` one is not written."""
    return Entry((), (theirs,), lambda tensors: [], lambda tensors: [value], optional, expected=value)


def absent(theirs: str, copy_of: str) -> Entry:
    """Under this name they may store a copy of their ``copy_of``, or only the copy; we store neither copy."""
    return Entry((), (theirs,), lambda tensors: [], lambda tensors: [], optional=True, copy_of=copy_of)


def repeat(count: int, entries: Iterable[Entry]) -> list[Entry]:
    """The entries of ``count`` layers: "#" in a name is the layer's number."""
    return [
        replace(entry, ours=_numbered(entry.ours, n), theirs=_numbered(entry.theirs, n))
        for n in range(count)
        for entry in entries
    ]


def import_weights(table: Sequence[Entry], theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict from theirs. A tensor that is missing, unknown or not what it must be raises and is named."""
    left = dict(theirs)
    for entry in table:
        if entry.copy_of and entry.theirs[0] in left:
            copy = left.pop(entry.theirs[0])
            kept = left.setdefault(entry.copy_of, copy)
            if kept.shape != copy.shape or not torch.equal(kept, copy):
                raise RegardError(f"'{entry.theirs[0]}' differs from '{entry.copy_of}', to which it should be tied")
    ours: dict[str, Tensor] = {}
    for entry in table:
        if entry.optional and not any(name in left for name in entry.theirs):
            continue
        tensors = [_taken(left, name) for name in entry.theirs]
        if entry.expected is not None:
            _compare(entry.theirs[0], tensors[0], entry.expected)
        ours |= zip(entry.ours, entry.to_ours(tensors), strict=True)
    for name in left:
        known = [name for entry in table for name in entry.theirs]
        raise RegardError(f"'{name}' is in the checkpoint, but has no place in this model{nearest(name, known)}")
    return {name: tensor.contiguous() for name, tensor in ours.items()}


def export_weights(table: Sequence[Entry], ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Their state dict from ours."""
    left = dict(ours)
    theirs: dict[str, Tensor] = {}
    for entry in table:
        if not entry.optional:
            tensors = entry.to_theirs([_taken(left, name) for name in entry.ours])
            theirs |= zip(entry.theirs, tensors, strict=True)
    for name in left:
        raise RegardError(f"'{name}' of this model has no place in the other format")
    return {name: tensor.contiguous() for name, tensor in theirs.items()}


def _taken(tensors: dict[str, Tensor], name: str) -> Tensor:
    if name not in tensors:
        raise RegardError(f"'{name}' is missing")
    return tensors.pop(name)


def _compare(name: str, found: Tensor, expected: Tensor) -> None:
    """Raise unless a stored tensor is what we compute; it may have been rounded to fp16."""
    same_shape = found.shape == expected.shape
    if not same_shape or not torch.allclose(found.double(), expected.double(), rtol=0, atol=1e-3):
        raise RegardError(f"'{name}' is not what it is in every model of this kind")


def _many(
    ours: Names,
    theirs: Names,
    together: Callable[[Tensors], Tensors],
    apart: Callable[[int], Callable[[Tensors], Tensors]],
) -> Entry:
    """The side that is one name holds the tensors of the other side together."""
    if isinstance(ours, str):
        assert not isinstance(theirs, str)
        return Entry((ours,), tuple(theirs), together, apart(len(theirs)))
    assert isinstance(theirs, str)
    return Entry(tuple(ours), (theirs,), apart(len(ours)), together)


def _numbered(names: tuple[str, ...], number: int) -> tuple[str, ...]:
    return tuple(name.replace("#", str(number)) for name in names)
