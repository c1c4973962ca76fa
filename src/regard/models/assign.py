"""Gives a model that was built on the meta device its weights, one tensor at a time.

A parameter gets memory when its first tensor is read, and each tensor is copied into that memory by rows: so loading
takes little more than the weights, whatever their precision in the file. The names are those of ``state_dict()``; of a
tied parameter only the kept name is read. Several names can be parts of one parameter: attention holds queries, keys
and values in one matrix, and ``state_dict()`` gives views of the matrix.

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
CHUNK = 1 << 18  # numbers that are read at once
GIVE_BACK_AFTER = 1 << 22  # bytes read, after which the free pages of the heap are given back


class Readable(Protocol):
    """A tensor that is read when it is wanted: ``regard.weights.Stored`` or ``Made``. Errors name ``path``."""

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


class RowReader:
    """A tensor [R, …] whose rows are read some at a time: ``reader[start:stop]`` reads rows and casts them."""

    def __init__(self, name: str, source: Readable, dtype: torch.dtype) -> None:
        self.name, self.source, self.dtype = name, source, dtype
        self.shape = torch.Size(source.shape)

    def __getitem__(self, rows: slice) -> Tensor:
        return self.read(rows).to(self.dtype)

    def read(self, rows: slice) -> Tensor:
        """The rows in the precision of the file; a RegardError for another type, or numbers that are not finite."""
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

    def begin(self, model: Any, reader: Callable[[str, torch.dtype], RowReader]) -> set[str]:
        """Called with the model on the meta device; returns the names of the tensors that were read and replaced."""
        ...

    def dtype(self, module: nn.Module) -> torch.dtype:
        """The type of the floats that a module itself holds."""
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

    Floats become ``dtype``, or what ``replacing`` says. A RegardError names a tensor that is of another type, or holds
    numbers that are not finite. Modules with the largest tensors are read first, so that the memory that their reading
    and replacing takes is free again before the model fills the memory.
    """

    def reader(name: str, kind: torch.dtype) -> RowReader:
        return RowReader(name, found[name], kind)

    taken = set() if replacing is None else replacing.begin(model, reader)
    parameters, read = _Parameters(model, dtype, device, replacing), 0
    for name in parameters.in_order():
        if name not in taken:
            memory = parameters.memory(name)
            _copy(reader(name, memory.dtype), memory)
            parameters.filled(name)
            read += memory.nbytes
            if read > GIVE_BACK_AFTER:
                read = 0
                give_back()  # blocks of many sizes come and go, and leave holes in the heap
    parameters.finish()
    give_back()


def _copy(reader: RowReader, memory: Tensor) -> None:
    """Copy a tensor into its ``memory``, some rows at a time."""
    for start in range(0, len(memory) if memory.dim() else 1, reader.at_once):
        part = reader.read(slice(start, start + reader.at_once))
        target = memory[start : start + reader.at_once] if memory.dim() else memory
        if part.shape != target.shape:
            raise RegardError(f"{reader.source.path}: '{reader.name}' is not of its shape {list(memory.shape)}")
        target.copy_(part)


def is_finite(tensor: Tensor) -> bool:
    """Whether no number is NaN or infinite; ``isfinite`` would make a tensor of the same size."""
    if not tensor.numel():
        return True
    least, most = tensor.aminmax()
    return bool(least.isfinite()) and bool(most.isfinite())


class _Parameters:
    """The parameters and buffers of a model on the meta device; each gets memory when its first tensor is asked for.

    ``views``: {name: tensor of the state dict}. The storage of a view says which parameter the view is a part of, and
    its offset which part.
    """

    def __init__(self, model: Any, dtype: torch.dtype, device: torch.device, replacing: Replacing | None) -> None:
        self.model, self.dtype, self.device = model, dtype, device
        self.replacing = replacing
        self.views = names(model)
        # By storage: the modules that hold a parameter, each with the table and the name; the parameter on the meta
        # device; how many of its numbers were not read yet; and its memory, while it waits for some of them.
        self._owners: dict[int, list[tuple[dict[str, Any], str, nn.Module]]] = {}
        self._on_meta: dict[int, Tensor] = {}
        self._unread: dict[int, int] = {}
        self._allocated: dict[int, Tensor] = {}
        self._parents: dict[int, list[tuple[nn.Module, str]]] = {}  # by the module's id
        for module in model.modules():
            for table in (module._parameters, module._buffers):
                for name, tensor in table.items():
                    if tensor is not None:
                        self._owners.setdefault(_storage(tensor), []).append((table, name, module))
                        self._on_meta[_storage(tensor)], self._unread[_storage(tensor)] = tensor, tensor.numel()
            for name, child in module._modules.items():
                if child is not None:
                    self._parents.setdefault(id(child), []).append((module, name))

    def in_order(self) -> list[str]:
        """The names module by module, so that each can be replaced soon, those with the largest tensors first."""
        modules: dict[int, list[str]] = {}
        for name, view in self.views.items():
            owners = self._owners.get(_storage(view))
            modules.setdefault(id(owners[0][2]) if owners else 0, []).append(name)
        by_size = sorted(modules.values(), key=lambda names: -max(self.views[name].numel() for name in names))
        return [name for names in by_size for name in names]

    def memory(self, name: str) -> Tensor:
        """The memory of a stored tensor: a view of its parameter's."""
        view = self.views[name]
        key = _storage(view)
        if key not in self._owners:
            raise RuntimeError(f"'{name}' of the state dict is no view of a parameter")
        if key not in self._allocated:
            self._allocated[key] = self._allocate(key)
        return self._allocated[key].as_strided(view.shape, view.stride(), view.storage_offset())

    def _allocate(self, key: int) -> Tensor:
        """Memory for a parameter, which all modules that hold the parameter get."""
        whole = self._on_meta[key]
        kind = self.dtype if self.replacing is None else self.replacing.dtype(self._owners[key][0][2])
        dtype = kind if whole.is_floating_point() else whole.dtype
        found = torch.empty(whole.shape, dtype=dtype, device=self.device)
        held = nn.Parameter(found, whole.requires_grad) if isinstance(whole, nn.Parameter) else found
        for table, name, _ in self._owners[key]:
            table[name] = held
        return found

    def filled(self, name: str) -> None:
        """Called when a tensor has been read: replaces the modules of which this was the last tensor to be read."""
        key = _storage(self.views[name])
        self._unread[key] -= self.views[name].numel()
        if self._unread[key]:
            return
        del self._allocated[key]
        for _, _, module in self._owners.pop(key):  # popped, so that the memory of a replaced module is freed
            if self.replacing is None or any(tensor.is_meta for tensor in _own(module)):
                continue
            other = self.replacing.replace(module)
            if other is not module:
                for parent, attribute in self._parents.get(id(module), ()):
                    setattr(parent, attribute, other)

    def finish(self) -> None:
        """Puts empty tables, which grow when they are used, on the device; RuntimeError if more is left on meta."""
        for module in self.model.modules():
            for name, value in list(vars(module).items()):
                if isinstance(value, Tensor) and value.is_meta and not value.numel():
                    setattr(module, name, torch.empty(value.shape, dtype=self.dtype, device=self.device))
            left = [tensor for tensor in (*_own(module), *vars(module).values()) if isinstance(tensor, Tensor)]
            if any(tensor.is_meta for tensor in left):
                raise RuntimeError(f"{type(module).__name__} has a tensor that no file gives")
        if any(self._unread.values()):
            raise RuntimeError("the state dict leaves out a part of a parameter")


def _own(module: nn.Module) -> Iterator[Tensor]:
    """The parameters and buffers of a module itself."""
    yield from module.parameters(recurse=False)
    yield from module.buffers(recurse=False)


def _storage(tensor: Tensor) -> int:
    key: int = tensor.untyped_storage()._cdata
    return key
