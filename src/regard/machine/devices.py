"""Devices and dtypes by name."""

from __future__ import annotations

import torch

from regard.errors import RegardError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "int8": torch.int8}
KNOWN = "expected auto, cpu, cuda, cuda:N or mps"


def device(name: str = "auto") -> torch.device:
    """The device ``auto`` (CUDA if there is a GPU), ``cpu``, ``cuda``, ``cuda:1`` or ``mps``; an error if absent."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(name)
    except RuntimeError:
        raise RegardError(f"device '{name}' cannot be used: {KNOWN}") from None
    if fault := _fault(found):
        raise RegardError(f"device '{name}' cannot be used: {fault}")
    return found


def _fault(found: torch.device) -> str:
    """Why a device cannot be used; "" when it can."""
    if found.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not count:
            build = "" if torch.version.cuda else ", which was built without CUDA,"
            return f"PyTorch {torch.__version__}{build} sees no CUDA device; use cpu"
        if (found.index or 0) >= count:
            return f"there is cuda:0 to cuda:{count - 1} only" if count > 1 else "there is cuda:0 only"
    elif found.type == "mps":
        return "" if torch.backends.mps.is_available() else "this machine has no such GPU; use cpu"
    elif found.type != "cpu":
        return KNOWN
    try:
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError) as error:  # a driver that does not answer, a GPU in use
        return str(error).splitlines()[0]
    return ""


def dtype(name: str = "auto") -> torch.dtype:
    """The dtype ``fp32``, ``bf16``, ``fp16`` or ``int8``; ``auto`` is fp32: results do not depend on the batch."""
    if name == "auto":
        return torch.float32
    if name not in DTYPES:
        raise RegardError(f"unknown dtype '{name}': expected {', '.join(DTYPES)}")
    return DTYPES[name]
