"""Work in forked processes: in order, with one thread each, nothing lost, and nobody left behind."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import psutil
import pytest
import torch

from regard.processes import can_fork, side_by_side


@pytest.fixture(autouse=True)
def nobody_is_left_behind() -> Iterator[None]:
    before = {child.pid for child in psutil.Process().children()}  # other tests' own
    yield
    assert {child.pid for child in psutil.Process().children()} <= before


def test_parts_come_back_in_order_each_from_its_process() -> None:
    def work(part: int) -> bytes:
        return f"{part} {os.getpid()} {torch.get_num_threads()}".encode()

    found = [list(map(int, one.split())) for one in side_by_side(work, [7, 8, 9])]
    assert [part for part, *_ in found] == [7, 8, 9]
    assert found[0][1] == os.getpid() and len({process for _, process, _ in found}) == 3
    assert all(threads == 1 for *_, threads in found[1:])


def test_much_comes_back_from_several_at_once() -> None:
    found = side_by_side(lambda part: bytes([part]) * 10_000_000, [1, 2, 3])
    assert [(len(one), one[0], one[-1]) for one in found] == [(10_000_000, n, n) for n in (1, 2, 3)]


@pytest.mark.parametrize("how", ["killed", "error"])
def test_what_a_process_does_not_do_is_done_here(how: str) -> None:
    here = os.getpid()

    def work(part: int) -> bytes:
        if os.getpid() != here:
            if how == "killed":
                os.kill(os.getpid(), 9)
            raise ValueError("not here")
        return str(part).encode()

    assert side_by_side(work, [1, 2]) == [b"1", b"2"]


def test_a_message_that_breaks_off_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    here, usual = os.getpid(), os.fdopen

    def fdopen(number: int, mode: str) -> object:
        if os.getpid() != here:
            os.write(number, (1001).to_bytes(8) + b"half of it")
            os._exit(1)
        return usual(number, mode)

    monkeypatch.setattr(os, "fdopen", fdopen)
    assert side_by_side(lambda part: bytes([part]) * 1000, [1, 2]) == [b"\1" * 1000, b"\2" * 1000]
    assert side_by_side(lambda part: b"", [1, 2]) == [b"", b""]


def test_an_error_is_the_callers_and_nobody_stays_behind() -> None:
    threads = torch.get_num_threads()
    for bad in (1, 2):

        def work(part: int, bad: int = bad) -> bytes:
            if part == bad:
                raise KeyError(part)
            return b"done"

        with pytest.raises(KeyError):
            side_by_side(work, [1, 2])
        assert torch.get_num_threads() == threads


def test_nobody_forks_while_another_thread_does_such_work() -> None:
    begun, ended, seen = threading.Event(), threading.Event(), []

    def other() -> None:
        with can_fork() as forks:
            seen.append(forks)
            begun.set()
            ended.wait()

    thread = threading.Thread(target=other)
    thread.start()
    begun.wait()
    with can_fork() as forks:
        assert not forks
    ended.set()
    thread.join()
    with can_fork() as forks:
        assert forks == seen[0]
