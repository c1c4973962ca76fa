"""Work side by side on a CPU's cores: a few threads of Python, each with its share of PyTorch's.

Small products gain little from being divided among threads; whole pieces of work, a thread each, do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch

MOST = 4  # pieces side by side: Python itself runs on one core at a time

Found = TypeVar("Found")


class Threads:
    """``count`` threads, started when they are first needed; ``with threads.pool`` ends them."""

    def __init__(self, count: int) -> None:
        self.all = torch.get_num_threads()
        self.pool = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(self.all // count,))

    def each(self, work: Callable[..., Found], *items: Iterable[Any]) -> list[Found]:
        """``work`` of the items, as ``map`` gives them to it; in order."""
        try:
            return list(self.pool.map(work, *items))
        finally:
            torch.set_num_threads(self.all)  # threads that begin later have what was set last
