"""The device of a training process, and the settings of PyTorch on it."""

from __future__ import annotations

import os

import torch

from regard.config import Config
from regard.machine import devices
from regard.training.distributed import Group


def choose_device(name: str, group: Group) -> torch.device:
    """The device of this process; of several processes on GPUs each has its own."""
    device = devices.device(name)
    return torch.device("cuda", group.local_rank) if device.type == "cuda" and device.index is None else device


def prepare_torch(config: Config, device: torch.device) -> None:
    """Set threads and determinism, before the first product."""
    if config.training.threads:
        torch.set_num_threads(config.training.threads)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it at its first product
        torch.use_deterministic_algorithms(config.training.deterministic)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined] # costs time
