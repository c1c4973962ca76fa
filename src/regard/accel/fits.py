"""Unknown means refused: decides whether a fast path computes all that a part does.

A fast path names the fields of a spec that it computes. Every other field, one that is added later too, must have its
default, and every module must be exactly of a class that the path names, without hooks.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import nn


def computes(spec: Any, kind: Any, *names: str) -> bool:
    """Whether ``spec`` is exactly a ``kind``, a dataclass, and every field but the ``names`` has its default."""
    if type(spec) is not kind:
        return False
    fields = dataclasses.fields(kind)
    unknown = set(names) - {field.name for field in fields}
    assert not unknown, f"{kind.__name__} has no {', '.join(sorted(unknown))}"
    return all(field.name in names or _has_default(spec, field) for field in fields)


def _has_default(spec: Any, field: dataclasses.Field[Any]) -> bool:
    if field.default_factory is not dataclasses.MISSING:
        return bool(getattr(spec, field.name) == field.default_factory())
    return field.default is not dataclasses.MISSING and bool(getattr(spec, field.name) == field.default)


def plain(module: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Whether a module is exactly of one of the ``kinds``, and a call runs its class's ``forward`` and nothing else."""
    hooks = module._forward_hooks or module._forward_pre_hooks
    return type(module) in kinds and not hooks and "forward" not in vars(module)
