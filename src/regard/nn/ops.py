"""Operations that a faster way may take over: products, attention, dropout with its residual, the loss's gradient.

Each operation is one function of this package, written plainly. ``regard.accel`` has faster ways for some arguments;
the trainer and the decoder switch them on. A model knows nothing of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Operation(Generic[P, T]):
    """A function and, in order, the faster ways that are switched on.

    A way takes the same arguments, and returns None for those that it does not compute. The ``plain`` function computes
    all, and is the reference of every way.
    """

    def __init__(self, plain: Callable[P, T]) -> None:
        self.plain = plain
        self.ways: tuple[Callable[..., Any], ...] = ()
        self.__name__, self.__doc__ = plain.__name__, plain.__doc__

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        for way in self.ways:
            found: T | None = way(*args, **kwargs)
            if found is not None:
                return found
        return self.plain(*args, **kwargs)
