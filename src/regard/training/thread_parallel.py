"""Thread-parallel training on a CPU: a micro-batch is divided into parts, each computed by a thread.

Small products gain little from several threads each, and the operators between them nothing; parts of a batch, one a
thread, are faster (docs/benchmarks.md). Gradients are added in order, so that a run with the same number of threads is
repeated bit for bit.
"""

from __future__ import annotations

import torch

from regard.accel import thresholds
from regard.data.batch import Batch
from regard.machine.threads import MOST, Threads


class ThreadParallel:
    """Divides batches among threads."""

    def __init__(self, device: torch.device) -> None:
        self.most = min(torch.get_num_threads(), MOST) if device.type == "cpu" else 1
        self.threads = Threads(self.most)

    def parts(self, batch: Batch) -> list[Batch]:
        """The batch in as many parts as are worth a thread each."""
        count = min(self.most, len(batch.labels), batch.labels.numel() // thresholds.THREAD_POSITIONS)
        return batch.dealt(count) if count > 1 else [batch]
