"""Two-way tables between the names and shapes of someone else's checkpoint and ours.

A table is a list of entries of the five kinds below. One table says both import and export, which are inverse to the
bit. Both are strict: every tensor is used exactly once, and a size that does not fit is an error that names the tensor.

    same(ours, theirs, *steps)      the tensors as they are, or changed by steps (transforms.py)
    constant(theirs, shape, make)   they store what we compute, such as sinusoids
    absent(theirs, copy_of)         they may store a tied tensor again
    unused(theirs)                  they may store what no output depends on
    zero(ours)                      we have what they do not, and it is 0

``modules`` and ``repeat`` write many at once. GPT-2's matrix [in, 3 · out] of queries, keys and values is

    same(("query", "key", "value"), "c_attn.weight", transpose(), split(64, 64, 64))
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from regard.errors import RegardError, nearest
from regard.interop.transforms import Misfit, Shape, Step, Tensors, expect
from regard.models.assign import Made, Readable

Names = str | Sequence[str]


@dataclass(frozen=True)
class Entry:
    """A line of a table, of one of five kinds; the function of a kind's name says what the line means."""

    kind: Literal["same", "constant", "absent", "unused", "zero"]
    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    steps: tuple[Step, ...] = ()  # of "same", from theirs to ours
    copy_of: str = ""  # of "absent": their other name of the tensor
    make: Callable[[], Tensor] = torch.Tensor  # of "constant": the value
    shape: Shape = ()  # of this value

    @property
    def optional(self) -> bool:
        """Whether their file may lack the tensor, which is not written."""
        return self.kind in ("constant", "absent", "unused")

    def to_ours(self, tensors: Tensors) -> Tensors:
        """Their tensors as ours; a ``RegardError`` names those that do not fit."""
        return self._changed(self.theirs, tensors, self.ours, [step.to_ours for step in self.steps])

    def to_theirs(self, tensors: Tensors) -> Tensors:
        """Our tensors as theirs; a ``RegardError`` names those that do not fit."""
        return self._changed(self.ours, tensors, self.theirs, [step.to_theirs for step in reversed(self.steps)])

    def _changed(
        self, names: Sequence[str], tensors: Tensors, into: Sequence[str], changes: Sequence[Callable[..., Tensors]]
    ) -> Tensors:
        changed = list(tensors)
        try:
            for change in changes:
                changed = change(changed)
            expect(len(changed) == len(into), f"{len(into)} tensors of it")
        except ValueError as error:
            described = ", ".join(f"'{n}' {list(t.shape)}" for n, t in zip(names, tensors, strict=True))
            reached = ", ".join(str(list(tensor.shape)) for tensor in changed)
            reached = "" if reached == ", ".join(str(list(t.shape)) for t in tensors) else f", changed to {reached}"
            expected = error if isinstance(error, Misfit) else "another number of tensors"
            raise RegardError(f"{described:.300}{reached:.100}: expected {expected}") from None
        return changed


def same(ours: Names, theirs: Names, *steps: Step) -> Entry:
    """The tensors as they are, or changed by ``steps``, which lead from theirs to ours."""
    return Entry("same", _names(ours), _names(theirs), steps)


def constant(theirs: str, shape: Shape, make: Callable[[], Tensor]) -> Entry:
    """They may store what we compute: a stored one must be what ``make`` makes [``shape``], and none is written."""
    return Entry("constant", (), (theirs,), make=make, shape=shape)


def absent(theirs: str, copy_of: str) -> Entry:
    """Under this name they may store a copy of their ``copy_of``, or only the copy; we store neither copy."""
    return Entry("absent", (), (theirs,), copy_of=copy_of)


def unused(theirs: str) -> Entry:
    """They may store this tensor, and no output depends on it: it is neither kept nor written."""
    return Entry("unused", (), (theirs,))


def zero(ours: str) -> Entry:
    """We have a tensor that they lack: it is 0 after import, and must be 0 at export."""
    return Entry("zero", (ours,), ())


def repeat(count: int, entries: Iterable[Entry]) -> list[Entry]:
    """The entries of ``count`` layers: "#" in a name is the layer's number."""
    return [
        replace(entry, ours=_numbered(entry.ours, n), theirs=_numbered(entry.theirs, n))
        for n in range(count)
        for entry in entries
    ]


def modules(names: Mapping[str, str], *kinds: str, ours: str = "", theirs: str = "") -> list[Entry]:
    """The tensors of modules, {ours: theirs}, that have the same shapes; ``kinds`` are "weight" and "bias".

    All our names begin with ``ours``, theirs with ``theirs``.
    """
    return [same(f"{ours}{one}.{kind}", f"{theirs}{other}.{kind}") for one, other in names.items() for kind in kinds]


def readable(
    table: Sequence[Entry], theirs: Mapping[str, Readable], shapes: Mapping[str, Shape] | None = None
) -> dict[str, Readable]:
    """Our tensors, read when they are wanted, from theirs: one that needs no step is theirs itself.

    ``shapes`` of ours are needed for tensors that steps make or that theirs lack. A RegardError names a tensor that is
    missing, unknown or not what it must be; names are checked before the first tensor is read.
    """
    in_file, shapes = check_names(table, theirs), shapes or {}
    ours: dict[str, Readable] = {}
    for entry in table:
        if entry.kind == "zero":
            shape = shapes[entry.ours[0]]
            ours[entry.ours[0]] = Made(Path(), shape, partial(torch.zeros, shape))
        elif entry.kind == "same":
            found = [theirs[in_file[name]] for name in entry.theirs]
            for number, name in enumerate(entry.ours):
                made = Made(found[0].path, shapes.get(name, ()), partial(_made, entry, found, number))
                ours[name] = made if entry.steps else found[number]
        elif entry.theirs[0] in theirs:
            _check_optional(entry, theirs, in_file)
    return ours


def _check_optional(entry: Entry, theirs: Mapping[str, Readable], in_file: Mapping[str, str]) -> None:
    """Raise unless a tensor that need not be in the file is what it must be."""
    name, kept = entry.theirs[0], in_file.get(entry.copy_of, "")
    if entry.kind == "constant":
        _compare(name, theirs[name], entry.shape, entry.make)
    elif entry.kind == "absent" and name != kept and not _equal(theirs[kept], theirs[name]):
        raise RegardError(f"'{name}' differs from '{kept}', to which it should be tied")


def _made(entry: Entry, found: Sequence[Readable], number: int) -> Tensor:
    """The entry's tensor of ours with this number, which the steps make of those ``found`` in the file."""
    try:
        return entry.to_ours([tensor.read() for tensor in found])[number].contiguous()
    except RegardError as error:
        raise RegardError(f"{found[0].path}: {error}") from None


def check_names(table: Sequence[Entry], theirs: Iterable[str]) -> dict[str, str]:
    """{name in the table: name in the file}, the same unless a copy stands in; raises for any other name."""
    in_file = {name: name for name in theirs}
    for entry in table:
        if entry.kind == "absent" and in_file.pop(entry.theirs[0], None) is not None:
            in_file.setdefault(entry.copy_of, entry.theirs[0])
    known = {name: entry.optional for entry in table for name in entry.theirs}
    for name, optional in known.items():
        if name not in in_file and not optional:
            raise RegardError(f"'{name}' is missing")
    for name in in_file:
        if name not in known:
            raise RegardError(
                f"{name!r:.100} is in the checkpoint, but has no place in this model{nearest(name, known)}"
            )
    return in_file


def check_shapes(table: Sequence[Entry], theirs: Mapping[str, Shape], ours: Mapping[str, Shape]) -> None:
    """Raise unless each of their tensors has the shape that ``ours`` makes it; no tensor is read or made."""
    in_file = check_names(table, theirs)
    for entry in table:
        if entry.kind == "same":
            made = entry.to_theirs([torch.empty(ours[name], device="meta") for name in entry.ours])
            wanted = [tuple(tensor.shape) for tensor in made]
        elif entry.kind == "constant" and entry.theirs[0] in in_file:
            wanted = [entry.shape]
        else:
            continue
        for name, shape in zip(entry.theirs, wanted, strict=True):
            found = tuple(theirs[in_file[name]])
            if found != shape:
                raise RegardError(f"'{name}' is {list(found)!s:.60}, expected {list(shape)}")


def import_weights(
    table: Sequence[Entry], theirs: Mapping[str, Tensor], shapes: Mapping[str, Shape] | None = None
) -> dict[str, Tensor]:
    """Our state dict from theirs; see ``readable``."""
    return {name: tensor.read().contiguous() for name, tensor in readable(table, held(theirs), shapes).items()}


def held(tensors: Mapping[str, Tensor]) -> dict[str, Readable]:
    """Tensors in memory as if they were read from a file."""
    made = {name: partial(torch.Tensor.contiguous, tensor) for name, tensor in tensors.items()}
    return {name: Made(Path("weights"), tuple(tensor.shape), made[name]) for name, tensor in tensors.items()}


def export_weights(table: Sequence[Entry], ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Their state dict from ours."""
    left = dict(ours)
    theirs: dict[str, Tensor] = {}
    for entry in table:
        if entry.optional:
            continue
        tensors = [_taken(left, name) for name in entry.ours]
        if entry.kind == "zero":
            if bool(tensors[0].any()):
                raise RegardError(f"'{entry.ours[0]}' has no place in the other format, where it is 0")
            continue
        theirs |= zip(entry.theirs, entry.to_theirs(tensors), strict=True)
    for name in left:
        raise RegardError(f"'{name}' of this model has no place in the other format")
    return {name: tensor.contiguous() for name, tensor in theirs.items()}


def _taken(tensors: dict[str, Tensor], name: str) -> Tensor:
    if name not in tensors:
        raise RegardError(f"'{name}' is missing")
    return tensors.pop(name)


def _equal(one: Readable, other: Readable) -> bool:
    """Whether two tensors are alike to the bit; some rows of each are read at a time."""
    if tuple(one.shape) != tuple(other.shape):
        return False
    rows = one.shape[0] if one.shape else 1
    step = max(1, (1 << 22) * rows // max(1, math.prod(one.shape)))
    return all(torch.equal(one.read(at, at + step), other.read(at, at + step)) for at in range(0, rows, step))


def _compare(name: str, found: Readable, shape: Shape, expected: Callable[[], Tensor]) -> None:
    """Raise unless a stored tensor is what we compute; it may have been rounded to fp16."""
    same_shape = tuple(found.shape) == tuple(shape)
    if not same_shape or not torch.allclose(found.read().double(), expected().double(), rtol=0, atol=1e-3):
        raise RegardError(f"'{name}' is not what it is in every model of this kind")


def _names(names: Names) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _numbered(names: tuple[str, ...], number: int) -> tuple[str, ...]:
    return tuple(name.replace("#", str(number)) for name in names)
