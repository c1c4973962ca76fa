"""One training on several processes, started by ``torchrun``: the rank of this process, and messages between them."""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Group:
    """This process is ``rank`` of ``ranks``; rank 0 writes the files and prints."""

    rank: int = 0
    ranks: int = 1
    local_rank: int = 0

    @staticmethod
    def from_environment() -> Group:
        """The group by the variables that ``torchrun`` sets; without them, this process alone."""
        return Group(*(int(os.environ.get(name, n)) for name, n in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))))

    @property
    def first(self) -> bool:
        return self.rank == 0

    @contextlib.contextmanager
    def joined(self, device: torch.device) -> Iterator[None]:
        """Connect to the other processes inside; nothing happens where this one is alone."""
        if self.ranks == 1:
            yield
            return
        # Long, because the others wait while rank 0 validates and saves.
        timeout = datetime.timedelta(hours=6)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timeout)
        try:
            yield
        finally:
            dist.destroy_process_group()

    def from_first(self, number: int, device: torch.device) -> int:
        """Rank 0's ``number``, on every rank."""
        if self.ranks == 1:
            return number
        said = torch.tensor([number], device=device)
        dist.broadcast(said, src=0)
        return int(said.item())  # a host synchronisation, with several processes only
