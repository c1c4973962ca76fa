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
        self.share = self.all // count
        self.pool = ThreadPoolExecutor(count)

    def each(self, work: Callable[..., Found], *items: Iterable[Any]) -> list[Found]:
        """``work`` of the items, as ``map`` gives them to it; in order."""

        def with_share(*item: Any) -> Found:
            # Each time: a thread that uses PyTorch for the first time takes what any thread has set last.
            torch.set_num_threads(self.share)
            return work(*item)

        try:
            return list(self.pool.map(with_share, *items))
        finally:
            torch.set_num_threads(self.all)  # threads that begin later have what was set last
