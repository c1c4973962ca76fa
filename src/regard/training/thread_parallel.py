"""A micro-batch on several CPU cores: each has some of its pairs, and they are computed side by side.

The products of a small model gain little from being divided among threads, and what stands between them nothing: parts
of a batch, a thread each, are done sooner (docs/benchmarks.md). Their gradients are added in order, so that a run is
repeated bit for bit with the same number of threads.
"""

from __future__ import annotations

import torch

from regard.data.batch import Batch
from regard.machine.threads import MOST, Threads

WORTH = 768  # target positions, padding counted, that a core of its own wants


class ThreadParallel:
    """Divides batches among threads."""

    def __init__(self, device: torch.device) -> None:
        self.most = min(torch.get_num_threads(), MOST) if device.type == "cpu" else 1
        self.threads = Threads(self.most)

    def parts(self, batch: Batch) -> list[Batch]:
        """The batch in as many parts as pay."""
        count = min(self.most, len(batch.labels), batch.labels.numel() // WORTH)
        return batch.dealt(count) if count > 1 else [batch]
