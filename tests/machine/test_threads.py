"""Threads side by side keep to their share of PyTorch's, whenever they first use it."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from regard.machine.threads import Threads


@pytest.fixture(autouse=True)
def six_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(6)
    yield
    torch.set_num_threads(before)


def test_each_has_its_share_though_it_computed_nothing_at_first() -> None:
    threads, together = Threads(3), threading.Barrier(3)

    def wait(_: int) -> None:
        together.wait()

    def share(_: int) -> int:
        together.wait()  # a thread each
        return torch.get_num_threads()

    with threads.pool:
        threads.each(wait, range(3))
        assert torch.get_num_threads() == 6
        assert threads.each(share, range(3)) == [2, 2, 2]
        assert torch.get_num_threads() == 6


def test_results_come_in_order() -> None:
    threads = Threads(2)
    with threads.pool:
        assert threads.each(lambda a, b: a * b, [1, 2, 3], [4, 5, 6]) == [4, 10, 18]
