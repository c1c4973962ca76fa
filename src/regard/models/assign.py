"""Gives a model that was built on the meta device its weights, one tensor at a time.

Memory is taken for a parameter when its first tensor is read, and each tensor is copied to its place by rows: so
loading takes little more than the weights, whatever their precision in the file. The names are those of
``state_dict()``, of which a tied parameter has the one that is kept. Several names can be parts of one parameter:
attention holds queries, keys and values in one matrix, and ``state_dict()`` gives views of it.

    with torch.device("meta"), registry.Uninitialized():
        model = options.build(vocabulary)
    assign(model, {"decoder.norm.weight": Made(path, (512,), lambda: read() + 1), …}, torch.bfloat16, device)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from regard.errors import RegardError, nearest
from regard.machine.memory import give_back

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
CHUNK = 1 << 20  # numbers that are read at once

GIVEN_BACK = 1 << 24  # bytes after which the free pages of the heap are given back


class Readable(Protocol):
    """A tensor that is read when it is wanted: ``regard.weights.Stored`` or ``Made``. ``path`` is named in errors."""

    @property
    def path(self) -> Path: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    def read(self, start: int = 0, stop: int | None = None) -> Tensor: ...


@dataclass(frozen=True)
class Made:
    """A tensor [``shape``] that ``make`` makes of others, whole, such as one half of a matrix, transposed."""

    path: Path
    shape: tuple[int, ...]
    make: Callable[[], Tensor]

    def read(self, start: int = 0, stop: int | None = None) -> Tensor:
        whole = self.make()
        return whole[start:stop] if whole.dim() else whole


def names(model: Any) -> dict[str, Tensor]:
    """{name: tensor on the meta device} of all that ``assign`` wants: the state dict, tied parameters once."""
    return {name: tensor for name, tensor in model.state_dict().items() if name not in model.ties}


def check(model: Any, found: Mapping[str, Readable], path: Path, reason: str) -> None:
    """A RegardError for the first name or shape that is not the model's; ``path``: where a missing one should be.

    ``reason`` says what makes the shapes, such as "config.json makes".
    """
    wanted = names(model)
    for name in sorted(wanted.keys() | found.keys()):
        expected = list(wanted[name].shape) if name in wanted else None
        if name not in found:
            raise RegardError(f"{path}: '{name}' {expected} is missing")
        at = found[name].path
        if expected is None:
            raise RegardError(f"{at}: {name!r:.100} does not belong to this model{nearest(name, wanted)}")
        if list(found[name].shape) != expected:
            raise RegardError(f"{at}: '{name}' is {list(found[name].shape)!s:.60}, but {reason} it {expected}")


class Rows:
    """A tensor [R, …] that is read row by row: ``rows[start:stop]`` reads, checks and casts some of them."""

    def __init__(self, name: str, source: Readable, dtype: torch.dtype) -> None:
        self.name, self.source, self.dtype = name, source, dtype
        self.shape = torch.Size(source.shape)

    def __getitem__(self, rows: slice) -> Tensor:
        return self.read(rows).to(self.dtype)

    def read(self, rows: slice) -> Tensor:
        """The rows in the precision of the file; a RegardError for another kind, or numbers that are not finite."""
        part, name, path = self.source.read(rows.start or 0, rows.stop), self.name, self.source.path
        if part.dtype not in (FLOATS if self.dtype.is_floating_point else (self.dtype,)):
            raise RegardError(f"{path}: '{name}' is {part.dtype}, expected {self.dtype}")
        if part.is_floating_point() and not is_finite(part):
            raise RegardError(f"{path}: '{name}' holds numbers that are not finite (NaN or infinity)")
        return part

    @property
    def at_once(self) -> int:
        """How many rows are read at once."""
        whole = isinstance(self.source, Made) or not self.shape
        return max(1, self.shape[0] if self.shape else 1) if whole else max(1, CHUNK // max(1, self.shape[1:].numel()))


class Replacing(Protocol):
    """Puts other modules in the place of those that are read, such as quantised ones (accel/preparing.py)."""

    def begin(self, model: Any, rows: Callable[[str, torch.dtype], Rows]) -> set[str]:
        """Called with the model on the meta device; returns the names of tensors that it has read and replaced."""
        ...

    def dtype(self, module: nn.Module) -> torch.dtype:
        """The type of a module's own floats."""
        ...

    def replace(self, module: nn.Module) -> nn.Module:
        """Called with a module that has all of its own parameters: what stands in its place."""
        ...


@torch.no_grad()
def assign(
    model: Any,
    found: Mapping[str, Readable],
    dtype: torch.dtype,
    device: torch.device,
    replacing: Replacing | None = None,
) -> None:
    """Fill a model on the meta device with the tensors ``found``, whose names and shapes ``check`` has accepted.

    Floats become ``dtype``, or what ``replacing`` says. A RegardError names a tensor that is of another kind, or holds
    numbers that are not finite. The modules with the largest are read first, so that what is needed for them is gone
    before the memory is full.
    """
    taken = set() if replacing is None else replacing.begin(model, lambda name, kind: Rows(name, found[name], kind))
    places, read = _Places(model, dtype, device, replacing), 0
    for name in places.in_order():
        if name not in taken:
            room = places.room(name)
            _copy(Rows(name, found[name], room.dtype), room)
            places.filled(name)
            read += room.nbytes
            if read > GIVEN_BACK:
                read = 0
                give_back()  # blocks of many sizes come and go, and leave holes in the heap
    places.check()
    give_back()


def _copy(rows: Rows, room: Tensor) -> None:
    """Copy a tensor into its ``room``, some rows at a time."""
    for start in range(0, len(room) if room.dim() else 1, rows.at_once):
        part = rows.read(slice(start, start + rows.at_once))
        target = room[start : start + rows.at_once] if room.dim() else room
        if part.shape != target.shape:
            raise RegardError(f"{rows.source.path}: '{rows.name}' is not of its shape {list(room.shape)}")
        target.copy_(part)


def is_finite(tensor: Tensor) -> bool:
    """Whether no number is NaN or infinite; without a tensor of its size, unlike ``isfinite``."""
    if not tensor.numel():
        return True
    least, most = tensor.aminmax()
    return bool(least.isfinite()) and bool(most.isfinite())


class _Places:
    """The places of stored tensors in the parameters of a model, which get memory when they are first asked for.

    ``of``: {name: its view on the meta device}, whose storage and offsets say which part of a parameter it is.
    """

    def __init__(self, model: Any, dtype: torch.dtype, device: torch.device, replacing: Replacing | None) -> None:
        self.model, self.dtype, self.device = model, dtype, device
        self.replacing = replacing
        self.of = names(model)
        self._owners: dict[int, list[tuple[dict[str, Any], str, nn.Module]]] = {}  # by storage
        self._whole: dict[int, Tensor] = {}
        self._missing: dict[int, int] = {}  # numbers that a storage still waits for
        self._parents: dict[int, list[tuple[nn.Module, str]]] = {}
        for module in model.modules():
            for table in (module._parameters, module._buffers):
                for name, tensor in table.items():
                    if tensor is not None:
                        self._owners.setdefault(_storage(tensor), []).append((table, name, module))
                        self._whole[_storage(tensor)], self._missing[_storage(tensor)] = tensor, tensor.numel()
            for name, child in module._modules.items():
                if child is not None:
                    self._parents.setdefault(id(child), []).append((module, name))
        self._real: dict[int, Tensor] = {}

    def in_order(self) -> list[str]:
        """The names module by module, so that each can be replaced soon, those with the largest tensors first."""
        modules: dict[int, list[str]] = {}
        for name, view in self.of.items():
            owners = self._owners.get(_storage(view))
            modules.setdefault(id(owners[0][2]) if owners else 0, []).append(name)
        by_size = sorted(modules.values(), key=lambda names: -max(self.of[name].numel() for name in names))
        return [name for names in by_size for name in names]

    def room(self, name: str) -> Tensor:
        """The memory of a stored tensor: a view of its parameter."""
        view = self.of[name]
        key = _storage(view)
        if key not in self._owners:
            raise RuntimeError(f"'{name}' of the state dict is no view of a parameter")
        if key not in self._real:
            self._real[key] = self._given_memory(key)
        return self._real[key].as_strided(view.shape, view.stride(), view.storage_offset())

    def _given_memory(self, key: int) -> Tensor:
        whole = self._whole[key]
        kind = self.dtype if self.replacing is None else self.replacing.dtype(self._owners[key][0][2])
        dtype = kind if whole.is_floating_point() else whole.dtype
        found = torch.empty(whole.shape, dtype=dtype, device=self.device)
        held = nn.Parameter(found, whole.requires_grad) if isinstance(whole, nn.Parameter) else found
        for table, name, _ in self._owners[key]:
            table[name] = held
        return found

    def filled(self, name: str) -> None:
        """Replaces the modules that have all of their parameters with this tensor."""
        key = _storage(self.of[name])
        self._missing[key] -= self.of[name].numel()
        if self._missing[key]:
            return
        del self._real[key]
        for _, _, module in self._owners.pop(key):  # what is replaced must not be kept here
            if self.replacing is None or any(tensor.is_meta for tensor in _own(module)):
                continue
            other = self.replacing.replace(module)
            if other is not module:
                for parent, attribute in self._parents.get(id(module), ()):
                    setattr(parent, attribute, other)

    def check(self) -> None:
        """Puts empty tables, which grow when they are used, on the device; nothing may be left on the meta device."""
        for module in self.model.modules():
            for name, value in list(vars(module).items()):
                if isinstance(value, Tensor) and value.is_meta and not value.numel():
                    setattr(module, name, torch.empty(value.shape, dtype=self.dtype, device=self.device))
            left = [tensor for tensor in (*_own(module), *vars(module).values()) if isinstance(tensor, Tensor)]
            if any(tensor.is_meta for tensor in left):
                raise RuntimeError(f"{type(module).__name__} has a tensor that no file gives")
        if any(self._missing.values()):
            raise RuntimeError("the state dict leaves out a part of a parameter")


def _own(module: nn.Module) -> Iterator[Tensor]:
    """The parameters and buffers of a module itself."""
    yield from module.parameters(recurse=False)
    yield from module.buffers(recurse=False)


def _storage(tensor: Tensor) -> int:
    key: int = tensor.untyped_storage()._cdata
    return key
