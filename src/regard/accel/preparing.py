"""Prepares a model for decoding while its weights are read, so that the original's never fill the memory.

    preparing = Preparing(torch.float32)
    loaded = directory.load(name, "cpu", preparing.weights, preparing)
    loaded = replace(loaded, model=preparing.finish(loaded.model))

Each linear layer is laid out or quantised as soon as it has been read, and its weight is let go. What comes out decodes
as ``prepare(model)`` of the whole model does, and can do nothing else: its modules are not those that are recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from regard.accel import int8, native
from regard.accel.fits import plain
from regard.accel.int8 import Int8Linear
from regard.accel.linear import available
from regard.accel.prepacked import LINEAR, PrepackedLinear, PrepackedTable, gains
from regard.accel.prepared import Prepared, check_int8, has_known_logits, prepare_in_place
from regard.models.assign import Rows
from regard.nn.embedding import Table


class Preparing:
    """Replaces modules while a model is read on a CPU (models/assign.py); ``dtype`` may be ``torch.int8``."""

    def __init__(self, dtype: torch.dtype) -> None:
        if dtype == torch.int8:
            check_int8("cpu")
        self.int8 = dtype == torch.int8
        self.weights = torch.float32 if self.int8 else dtype  # the type in which weights are read
        self.output: Int8Linear | PrepackedLinear | None = None
        self._of_table: set[int] = set()

    def begin(self, model: Any, rows: Callable[[str, torch.dtype], Rows]) -> set[str]:
        """Lays out the output table, and where it is prepacked, looks ids up in what was laid out."""
        table, bias = model.output_table()
        self._of_table = {id(module) for module in model.modules() if getattr(module, "weight", None) is table}
        if not has_known_logits(model):
            return set()
        name, bias_of = _name(model, table), None
        if bias is not None:
            bias_of = rows(_name(model, bias), self.weights)[:]
        if self.int8:
            self.output = Int8Linear(rows(name, torch.float32), bias_of, torch.float32)
            return set()
        found = rows(name, self.weights)
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
        if self.int8 and not self._is_quantised(module) and available(torch.bfloat16):
            return torch.bfloat16
        return self.weights

    def replace(self, module: nn.Module) -> nn.Module:
        """A linear layer laid out or quantised, and anything else as it is."""
        if not plain(module, *LINEAR) or not isinstance(module, nn.Linear) or id(module) in self._of_table:
            return module
        if self.int8:
            return Int8Linear(module.weight, module.bias) if self._is_quantised(module) else module
        return PrepackedLinear(module.weight, module.bias) if gains(module.weight) else module

    def finish(self, model: Any) -> Prepared:
        """The prepared model."""
        return prepare_in_place(model, self.output)

    def _is_quantised(self, module: nn.Module) -> bool:
        if not plain(module, *LINEAR) or not isinstance(module, nn.Linear) or id(module) in self._of_table:
            return False
        return int8.is_wide(module)


def _name(model: Any, tensor: Tensor) -> str:
    """The name of a parameter in files."""
    known = model.named_parameters(remove_duplicate=False)
    found: str = next(name for name, parameter in known if parameter is tensor and name not in model.ties)
    return found


def _is_replaced(module: nn.Module) -> bool:
    return plain(module, Table, *LINEAR) and getattr(module, "bias", None) is None
