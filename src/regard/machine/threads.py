"""Parallel work on a CPU: a few Python threads, each with its share of PyTorch's threads.

Small products gain little from several threads each; independent pieces of work, one a thread, gain more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch

MOST = 4  # threads: Python itself runs on one core at a time

Found = TypeVar("Found")


class Threads:
    """A pool of ``count`` threads, started when first needed; ``with threads.pool`` ends them."""

    def __init__(self, count: int) -> None:
        self.all = torch.get_num_threads()
        self.share = self.all // count
        self.pool = ThreadPoolExecutor(count)

    def each(self, work: Callable[..., Found], *items: Iterable[Any]) -> list[Found]:
        """The results of ``work`` for the items, called as by ``map``, in order."""

        def with_share(*item: Any) -> Found:
            # At every call: a thread that first uses PyTorch takes the number that any thread has set last.
            torch.set_num_threads(self.share)
            return work(*item)

        try:
            return list(self.pool.map(with_share, *items))
        finally:
            torch.set_num_threads(self.all)  # new threads take the number that was set last
