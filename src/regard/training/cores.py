"""A micro-batch on several CPU cores: each has some of its pairs, and they are computed side by side.

The products of a small model gain little from being divided among threads, and what stands between them nothing: parts
of a batch, a thread each, are done sooner (docs/benchmarks.md). Their gradients are added in order, so that a run is
repeated bit for bit with the same number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from regard.data.batch import Batch

MOST = 4  # parts: Python itself runs on one core at a time
WORTH = 768  # target positions, padding counted, that a core of its own wants

Found = TypeVar("Found")


class Cores:
    """Runs parts of batches, on threads that are started once."""

    def __init__(self, device: torch.device) -> None:
        threads = torch.get_num_threads()
        self.most = min(threads, MOST) if device.type == "cpu" else 1
        self.pool: ThreadPoolExecutor | None = None
        if self.most > 1:
            share = threads // self.most
            self.pool = ThreadPoolExecutor(self.most, initializer=torch.set_num_threads, initargs=(share,))

    def parts(self, batch: Batch) -> list[Batch]:
        """The batch in as many parts as pay."""
        count = min(self.most, len(batch.labels), batch.labels.numel() // WORTH)
        return batch.dealt(count) if count > 1 else [batch]

    def each(self, work: Callable[[int, Batch], Found], parts: list[Batch]) -> list[Found]:
        """``work`` on each of several parts and its number, side by side; in order."""
        assert self.pool is not None
        threads = torch.get_num_threads()
        try:
            return list(self.pool.map(work, range(len(parts)), parts))
        finally:
            torch.set_num_threads(threads)  # threads that begin later have what was set last
