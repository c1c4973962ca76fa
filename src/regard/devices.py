"""Which device a name means, and whether it is there."""

from __future__ import annotations

import torch

from regard.errors import RegardError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def device(name: str = "auto") -> torch.device:
    """``auto`` (CUDA where there is a GPU), ``cpu``, ``cuda``, ``cuda:1``, ``mps``; what is not there is an error."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(name)
    except RuntimeError:
        raise RegardError(f"unknown device '{name}': expected auto, cpu, cuda, cuda:N or mps") from None
    if found.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count == 0:
            build = "" if torch.version.cuda else ", whose build has no CUDA"
            raise RegardError(f"device '{name}': PyTorch {torch.__version__}{build}, sees no CUDA device; use cpu")
        if (found.index or 0) >= count:
            raise RegardError(f"device '{name}': only {count} CUDA devices are there, cuda:0 to cuda:{count - 1}")
    elif found.type == "mps" and not torch.backends.mps.is_available():
        raise RegardError(f"device '{name}': not available on this machine; use cpu")
    elif found.type not in ("cpu", "cuda", "mps"):
        raise RegardError(f"unknown device '{name}': expected auto, cpu, cuda, cuda:N or mps")
    return found


def dtype(name: str = "auto") -> torch.dtype:
    """``fp32``, ``bf16`` or ``fp16``; ``auto`` is fp32, in which results do not depend on the batch."""
    if name == "auto":
        return torch.float32
    if name not in DTYPES:
        raise RegardError(f"unknown dtype '{name}': expected {', '.join(DTYPES)}")
    return DTYPES[name]
