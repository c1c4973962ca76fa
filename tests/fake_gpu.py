"""A GPU without one: PyTorch's fake tensors have shapes, types and a device, and no numbers.

Code that asks for a number, as ``item()`` and ``nonzero()`` do, waits for a GPU; a fake tensor refuses. Backward passes
cannot be run: autograd needs streams of a real device.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

GUARD = """
#include <c10/core/impl/FakeGuardImpl.h>
namespace c10::impl { C10_REGISTER_GUARD_IMPL(CUDA, FakeGuardImpl<DeviceType::CUDA>); }
"""


@pytest.fixture(scope="session")
def cuda_by_name(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A guard for CUDA, without which autograd of a PyTorch build for CPUs refuses that device."""
    import torch

    compiler, home = shutil.which("g++"), Path(torch.__file__).parent
    if torch.cuda.is_available():
        return
    if compiler is None:
        pytest.skip("there is no C++ compiler here")
    folder = tmp_path_factory.mktemp("guard")
    (folder / "guard.cpp").write_text(GUARD)
    flags = ["-std=c++20", "-shared", "-fPIC", f"-I{home / 'include'}", f"-L{home / 'lib'}"]
    subprocess.run([compiler, *flags, folder / "guard.cpp", "-lc10", "-o", folder / "guard.so"], check=True)
    torch.ops.load_library(folder / "guard.so")


@pytest.fixture
def fake_gpu(cuda_by_name: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All tensors that are made in the test are fake, those of CUDA too."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    @contextlib.contextmanager
    def autocast(device: str, dtype: torch.dtype = torch.bfloat16, enabled: bool = True) -> Iterator[None]:
        """PyTorch's is off where there is no GPU."""
        before = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
        torch.set_autocast_enabled(device, enabled)
        torch.set_autocast_dtype(device, dtype)
        try:
            yield
        finally:
            torch.set_autocast_enabled(device, before[0])
            torch.set_autocast_dtype(device, before[1])

    monkeypatch.setattr(torch, "autocast", autocast)
    with FakeTensorMode():
        yield
