"""The faster ways of each operation of nn/, in the order in which they are tried."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

from regard.accel import dropout, linear, loss, products, varlen
from regard.nn import dropout as plain_dropout
from regard.nn import kernels as plain_kernels
from regard.nn import linear as plain_linear
from regard.nn import loss as plain_loss
from regard.nn import multihead as plain_multihead
from regard.nn.ops import Operation

WAYS: tuple[tuple[Operation[..., Any], tuple[Callable[..., Any], ...]], ...] = (
    (plain_linear.linear, (linear.linear,)),
    (plain_multihead.split_heads, (varlen.split_heads,)),
    (plain_kernels.attention, (varlen.native_attention, varlen.flash_attention, products.products)),
    (plain_dropout.add_dropped, (dropout.add_dropped,)),
    (plain_loss.softmax_gradient, (loss.softmax_gradient,)),
    (plain_loss.add_to, (loss.add_to,)),
)

_lock = threading.Lock()
_users = 0


@contextlib.contextmanager
def switched_on() -> Iterator[None]:
    """Within the block, each operation of nn/ is computed by its first way that takes the call.

    Training and decoding use it. The switch is that of the process: it changes all its threads.
    """
    _count(+1)
    try:
        yield
    finally:
        _count(-1)


def _count(change: int) -> None:
    global _users
    with _lock:
        before, _users = _users, _users + change
        if bool(before) == bool(_users):
            return  # inside of another switch, which may have added ways of its own (fused.py)
        for operation, ways in WAYS:
            operation.ways = ways if _users else ()


def _after_fork() -> None:
    """A forked child has one thread, so that a lock held by another thread would never be released."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
