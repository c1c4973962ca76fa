"""regard: Transformers that you can see through."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from regard.models.recorder import record as record
    from regard.tasks import load as load

# `import regard` imports nothing heavy: these names are imported when first used.
_LAZY = {"load": "regard.tasks", "record": "regard.models.recorder"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'regard' has no attribute {name!r}")


def __dir__() -> list[str]:
    return ["__version__", *_LAZY]
