import subprocess
import sys

import pytest

PROGRAM = """
import sys, torch
from regard.training import memory
torch.set_num_threads(1)
said = memory.keep_memory() if sys.argv[1] == "keep" else ""
def work():
    parts = [torch.randn(700, 1000) for _ in range(8)] + [torch.randn(30, 50) for _ in range(100)]
    return torch.ones(12_000_000).sum() + sum(part.sum() for part in parts)
work(), work()
before = memory.page_faults()
work(), work()
print(memory.page_faults() - before, memory.peak_memory(), said)
"""


def run(how: str) -> tuple[int, int, str]:
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
    faults, peak, *said = done.stdout.split(maxsplit=2)
    return int(faults), int(peak), " ".join(said)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_freed_memory_is_kept() -> None:
    faults_without, peak, _ = run("plain")
    faults, _, said = run("keep")
    if said:
        pytest.skip(said)
    assert faults_without > 10_000  # 2 × 70 MB in pages of 4 KiB
    assert faults < faults_without / 10
    assert 50e6 < peak < 2e9
