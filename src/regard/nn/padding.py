"""Padding on the right of a batch: which positions are real tokens."""

from __future__ import annotations

import torch
from torch import Tensor


def sent(x: Tensor, device: torch.device) -> Tensor:
    """x on another device; a copy to CUDA is asynchronous, from pinned memory, so that the host does not wait."""
    if device.type != "cuda" or x.device.type != "cpu":
        return x.to(device)
    return x.pin_memory().to(device, non_blocking=True)


def everything_is_real(lengths: Tensor, size: int) -> bool:
    """Whether no sentence is padded; always False on an accelerator, where reading lengths makes the host wait."""
    return lengths.device.type == "cpu" and bool((lengths == size).all())


def real(lengths: Tensor, size: int) -> Tensor:
    """[B, size] bool: True at the positions that are no padding."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]
