"""Prepares a model for decoding while its weights are read, so that the original's weights never fill the memory.

    loaded = read_prepared(lambda dtype, replacing: directory.load(name, "cpu", dtype, replacing), torch.float32)

Each linear layer is laid out or quantised as soon as it has been read, and its weight is let go.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from regard.accel import int8, native
from regard.accel.fits import plain
from regard.accel.int8 import Int8Linear
from regard.accel.linear import available
from regard.accel.prepacked import LINEAR, PrepackedLinear, PrepackedTable, gains
from regard.accel.prepared import check_int8, has_known_logits, prepare_in_place, quantized_in_place, table_and_bias
from regard.accel.thresholds import PREPARED_BYTES
from regard.directory import Loaded
from regard.models.assign import Replacing, RowReader
from regard.nn.embedding import Table

#: Reads a model on the CPU in a precision, and replaces modules meanwhile (``directory.load``).
Read = Callable[[torch.dtype, Replacing], Loaded]


def read_prepared(read: Read, dtype: torch.dtype) -> Loaded:
    """A model that decodes as ``prepare(model, dtype)`` does, and can do nothing else: the original's weights are gone.

    Recording, alignments and training need the original.
    """
    preparing = Preparing(dtype)
    loaded = read(preparing.weights, preparing)
    return replace(loaded, model=prepare_in_place(loaded.model, preparing.output))


def read_quantized(read: Read) -> Loaded:
    """A model as ``quantize(model)`` makes it of the whole one: its modules can be recorded, and it can be prepared."""
    preparing = Preparing(torch.int8)
    loaded = read(preparing.weights, preparing)
    return replace(loaded, model=quantized_in_place(loaded.model, preparing.output))


def is_worth(device: torch.device | str, path: Path) -> bool:
    """Whether a model that only decodes should be prepared at once.

    Not where the native kernels would have to be compiled first, for which a small model need not wait.
    """
    if torch.device(device).type != "cpu":
        return False
    return native.at_hand() or sum(one.stat().st_size for one in path.glob("*.safetensors")) >= PREPARED_BYTES


class Preparing:
    """Replaces modules while a model is read on a CPU (models/assign.py); ``dtype`` may be ``torch.int8``."""

    def __init__(self, dtype: torch.dtype) -> None:
        if dtype == torch.int8:
            check_int8("cpu")
        self.int8 = dtype == torch.int8
        self.weights = torch.float32 if self.int8 else dtype  # the type in which weights are read
        self.output: Int8Linear | PrepackedLinear | None = None
        self._of_table: set[int] = set()

    def begin(self, model: Any, reader: Callable[[str, torch.dtype], RowReader]) -> set[str]:
        """Lays the output table out; if a kernel multiplies it, input tables that are tied to it look ids up there."""
        table, bias = table_and_bias(model)
        self._of_table = {id(module) for module in model.modules() if getattr(module, "weight", None) is table}
        if not has_known_logits(model):
            return set()
        name, bias_of = _name(model, table), None
        if bias is not None:
            bias_of = reader(_name(model, bias), self.weights)[:]
        if self.int8:
            self.output = Int8Linear(reader(name, torch.float32), bias_of, torch.float32)
            return set()
        found = reader(name, self.weights)
        owners = [module for module in model.modules() if id(module) in self._of_table]
        if not gains(found) or not native.multiplying(self.weights) or not all(_is_replaced(one) for one in owners):
            return set()
        self.output = PrepackedLinear(found, bias_of)
        assert self.output.matrix is not None
        for parent in list(model.modules()):
            for attribute, child in list(parent._modules.items()):
                if id(child) in self._of_table:
                    setattr(parent, attribute, PrepackedTable(self.output.matrix))
        return {name}

    def dtype(self, module: nn.Module) -> torch.dtype:
        """That of the weights; what is not quantised is in bf16 if the processor multiplies it."""
        is_quantised = self.int8 and self._is_linear(module) and int8.is_wide(module)
        return torch.bfloat16 if self.int8 and not is_quantised and available(torch.bfloat16) else self.weights

    def replace(self, module: nn.Module) -> nn.Module:
        """A linear layer laid out or quantised, and anything else as it is."""
        if not self._is_linear(module):
            return module
        if self.int8:
            return Int8Linear(module.weight, module.bias) if int8.is_wide(module) else module
        return PrepackedLinear(module.weight, module.bias) if gains(module.weight) else module

    def _is_linear(self, module: nn.Module) -> TypeGuard[nn.Linear]:
        """Whether a module is a known linear layer, and does not hold the output table, which others read."""
        return plain(module, *LINEAR) and isinstance(module, nn.Linear) and id(module) not in self._of_table


def _name(model: Any, tensor: Tensor) -> str:
    """The name of a parameter in files."""
    known = model.named_parameters(remove_duplicate=False)
    found: str = next(name for name, parameter in known if parameter is tensor and name not in model.ties)
    return found


def _is_replaced(module: nn.Module) -> bool:
    """Whether a module that holds the output table needs nothing but a look-up or a product of the table."""
    return plain(module, Table, *LINEAR) and getattr(module, "bias", None) is None
