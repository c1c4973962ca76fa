"""Work in forked processes: in order, with one thread each, nothing lost, and nobody left behind."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import psutil
import pytest
import torch

from regard.machine import processes
from regard.machine.processes import ForkedWorkers, can_fork


@pytest.fixture(autouse=True)
def nobody_is_left_behind() -> Iterator[None]:
    before = {child.pid for child in psutil.Process().children()}  # other tests' own
    yield
    gc.collect()
    assert {child.pid for child in psutil.Process().children()} <= before


def whose(job: bytes) -> bytes:
    return b"%s %d %d" % (job, os.getpid(), torch.get_num_threads())


def test_results_come_back_in_order_each_from_its_process_which_is_kept() -> None:
    workers, seen = ForkedWorkers(whose, 2), []
    for _ in range(3):
        found = [list(map(int, one.split())) for one in workers.each([b"7", b"8", b"9"])]
        assert [job for job, *_ in found] == [7, 8, 9]
        assert found[0][1] == os.getpid() and len({process for _, process, _ in found}) == 3
        assert all(threads == 1 for *_, threads in found[1:])
        seen.append([process for _, process, _ in found])
    assert seen[0] == seen[1] == seen[2] and workers.ready()
    workers.close()
    assert not workers.ready()


def test_much_goes_there_and_comes_back_from_several_at_once() -> None:
    jobs = [bytes([n]) * 10_000_000 for n in (1, 2, 3)]
    for _ in range(2):
        assert ForkedWorkers(lambda job: job + job, 2).each(jobs) == [job + job for job in jobs]
    assert ForkedWorkers(lambda job: b"", 1).each([b"", b""]) == [b"", b""]


def test_messages_come_here_from_every_process_before_its_result() -> None:
    def work(job: bytes) -> Generator[bytes, None, bytes]:
        for n in range(200):
            yield b"%s %d %d" % (job, n, os.getpid()) + b" " * 5000  # more than a pipe holds
        return job

    workers, heard = ForkedWorkers(work, 2), []
    for _ in range(2):
        heard.clear()
        assert workers.each([b"7", b"8", b"9"], heard.append) == [b"7", b"8", b"9"]
        read = [list(map(int, one.split())) for one in heard]
        for number in (7, 8, 9):
            assert [n for job, n, _ in read if job == number] == list(range(200))
        assert len({process for _, _, process in read}) == 3
    assert workers.each([b"1", b"2", b"3"]) == [b"1", b"2", b"3"], "or to nobody"


def test_the_messages_of_a_killed_worker_come_again() -> None:
    here = os.getpid()

    def work(job: bytes) -> Generator[bytes, None, bytes]:
        yield job + b"a"
        if os.getpid() != here:
            os.kill(os.getpid(), signal.SIGKILL)
        yield job + b"b"
        return job

    heard: list[bytes] = []
    assert ForkedWorkers(work, 1).each([b"1", b"2"], heard.append) == [b"1", b"2"]
    assert [one for one in heard if one[:1] == b"1"] == [b"1a", b"1b"]
    assert [one for one in heard if one[:1] == b"2"] == [b"2a", b"2a", b"2b"]


@pytest.mark.parametrize("how", ["killed", "error"])
def test_jobs_that_a_worker_does_not_do_are_done_here(how: str) -> None:
    here = os.getpid()

    def work(job: bytes) -> bytes:
        if os.getpid() != here and job == b"3":
            if how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ValueError("not here")
        return job

    workers = ForkedWorkers(work, 2)
    assert workers.each([b"1", b"2", b"4"]) == [b"1", b"2", b"4"]
    assert workers.each([b"1", b"2", b"3"]) == [b"1", b"2", b"3"]
    assert not workers.ready(), "others take their place"


def test_one_that_was_killed_while_idle_is_missed() -> None:
    workers = ForkedWorkers(whose, 1)
    os.kill(workers.children[0].process, signal.SIGKILL)
    found = workers.each([b"1", b"2"])  # whether or not it takes the job
    assert [one.split()[0] for one in found] == [b"1", b"2"]
    assert not workers.ready()


def test_a_message_that_breaks_off_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    here, usual = os.getpid(), processes._write

    def write(pipe: object, message: bytes) -> None:
        if os.getpid() != here:
            os.write(pipe.fileno(), (1001).to_bytes(8) + b"half of it")  # type: ignore[attr-defined]
            os._exit(1)
        usual(pipe, message)  # type: ignore[arg-type]

    monkeypatch.setattr(processes, "_write", write)
    assert ForkedWorkers(lambda job: job * 1000, 1).each([b"1", b"2"]) == [b"1" * 1000, b"2" * 1000]


def test_an_error_is_the_callers_and_nobody_stays_behind() -> None:
    threads = torch.get_num_threads()
    for bad in (b"1", b"2"):

        def work(job: bytes, bad: bytes = bad) -> bytes:
            if job == bad:
                raise KeyError(job)
            return b"done"

        workers = ForkedWorkers(work, 1)
        with pytest.raises(KeyError):
            workers.each([b"1", b"2"])
        assert torch.get_num_threads() == threads and not workers.ready()


def test_one_that_is_idle_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "IDLE", 0.2)
    workers = ForkedWorkers(whose, 1)
    end = time.monotonic() + 20
    while workers.ready() and time.monotonic() < end:
        time.sleep(0.05)
    assert not workers.ready()


def test_workers_end_with_their_parent_however_that_ends() -> None:
    program = """
import os, sys, time
from regard.machine.processes import ForkedWorkers
workers = ForkedWorkers(lambda job: b"%d" % os.getpid(), 2)
print(*(int(one) for one in workers.each([b"", b"", b""])[1:]), flush=True)
if sys.argv[1] == "killed":
    time.sleep(60)
"""
    for how in ("killed", "itself"):
        with subprocess.Popen([sys.executable, "-c", program, how], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            workers = list(map(int, process.stdout.readline().split()))
            if how == "killed":
                process.kill()
        end = time.monotonic() + 20
        while any(alive(worker) for worker in workers) and time.monotonic() < end:
            time.sleep(0.05)
        assert not any(alive(worker) for worker in workers)


def alive(process: int) -> bool:
    """(An orphan that nobody has waited for is dead too.)"""
    try:
        return "State:\tZ" not in Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    except OSError:
        return False


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
