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

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
CHUNK = 1 << 22  # numbers that are read at once

#: Given the model, still without weights, a function that replaces each module as soon as it has its parameters.
Replacing = Callable[[Any], Callable[[nn.Module], nn.Module]]


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


@torch.no_grad()
def assign(
    model: Any,
    found: Mapping[str, Readable],
    dtype: torch.dtype,
    device: torch.device,
    replacing: Replacing | None = None,
) -> None:
    """Fill a model on the meta device with the tensors ``found``, whose names and shapes ``check`` has accepted.

    Floats become ``dtype``. A RegardError names a tensor that is of another kind, or holds numbers that are not finite.
    The largest are read first, so that what ``replacing`` needs for them is gone before the memory is full.
    """
    places = _Places(model, dtype, device, replacing)
    for name in sorted(places.of, key=lambda name: -places.of[name].numel()):
        _copy(name, found[name], places.room(name))
        places.filled(name)
    places.check()


def _copy(name: str, source: Readable, room: Tensor) -> None:
    """Copy a tensor into its ``room``, some rows at a time if it is read from a file."""
    rows = len(room) if room.dim() else 1
    step = rows if isinstance(source, Made) else max(1, CHUNK * rows // max(1, room.numel()))
    for start in range(0, rows, step):
        part = source.read(start, start + step)
        if part.dtype not in (FLOATS if room.is_floating_point() else (room.dtype,)):
            raise RegardError(f"{source.path}: '{name}' is {part.dtype}, expected {room.dtype}")
        if part.is_floating_point() and not is_finite(part):
            raise RegardError(f"{source.path}: '{name}' holds numbers that are not finite (NaN or infinity)")
        target = room[start : start + step] if room.dim() else room
        if part.shape != target.shape:
            raise RegardError(f"{source.path}: '{name}' is {list(part.shape)}, expected {list(target.shape)}")
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
        self.replace = None if replacing is None else replacing(model)
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
        dtype = self.dtype if whole.is_floating_point() else whole.dtype
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
        for _, _, module in self._owners[key]:
            if self.replace is None or any(tensor.is_meta for tensor in _own(module)):
                continue
            other = self.replace(module)
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
