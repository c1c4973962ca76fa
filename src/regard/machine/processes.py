"""Work on several CPU cores as forked processes: each begins with all that this one has in memory, and starts at once.

Threads of one Python wait for each other between operators, which costs a decoding a third of its speed
(docs/benchmarks.md). A forked process has no such neighbour. It keeps to one thread in PyTorch, as PyTorch's own data
loaders do: of the threads that its parent may have used, it has none.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Generator, Iterator, Sequence
from io import FileIO
from typing import BinaryIO

import torch

SIZE = 8  # bytes of a number
MESSAGE, RESULT = b"m", b"r"  # the first byte of what a worker sends
IDLE = 60.0  # seconds without a job after which a worker ends

_lock = threading.Lock()
_busy = 0


@contextlib.contextmanager
def can_fork() -> Iterator[bool]:
    """Whether work inside may be given to forked processes: on Linux, and while no other thread does such work.

    Another thread could hold a lock of PyTorch's, which in the forked process nobody would ever open.
    """
    global _busy
    with _lock:
        _busy += 1
        alone = _busy == 1
    try:
        yield alone and sys.platform == "linux"
    finally:
        with _lock:
            _busy -= 1


@contextlib.contextmanager
def forking() -> Iterator[None]:
    """Without Python's word on forks beside threads; see ``can_fork``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def as_a_child() -> None:
    """What a forked process does first: Ctrl-C is for its parent, which ends it, and it has one thread in PyTorch."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)


#: What is made of a job: its result, or a generator of messages, which returns the result.
Work = Callable[[bytes], bytes | Generator[bytes, None, bytes]]
Heard = Callable[[bytes], None]


class ForkedWorkers:
    """Forked processes that do the same work as this one, beside it and again and again.

    A process that was forked has every page of memory in common with its parent until one of them writes to it, and
    then the page is copied: in its first work that takes a fifth of the time. So they are kept; one that has been idle
    for ``IDLE`` seconds ends.
    """

    def __init__(self, work: Work, count: int) -> None:
        self.work = work
        self.children: list[_ForkedWorker] = []
        gc.freeze()  # nothing that is there already is looked through for garbage: PyTorch alone has 500,000 objects
        try:
            for _ in range(count):
                self.children.append(_ForkedWorker(work, self.children))
        finally:
            gc.unfreeze()
        self.close = weakref.finalize(self, _end, os.getpid(), self.children)

    def ready(self) -> bool:
        """Whether all are there still."""
        return self.close.alive and all(child.lives() for child in self.children)

    def each(self, jobs: Sequence[bytes], heard: Heard | None = None) -> list[bytes]:
        """What the work makes of each job, in order: of the first here, of the others by a worker each.

        ``heard`` is called here with each message of the work, in whichever process it is done. A worker that ends
        before its work is done, by an error or by force, leaves its job to this process, in which an error then is the
        caller's to see; the messages of that job come again.
        """
        heard = heard or (lambda message: None)
        gc.freeze()
        threads = torch.get_num_threads()
        torch.set_num_threads(max(1, threads // len(jobs)))
        try:
            given = [child.give(job) for child, job in zip(self.children, jobs[1:], strict=True)]
            busy = [child for child, begun in zip(self.children, given, strict=True) if begun]

            def heard_here(message: bytes) -> None:
                heard(message)
                for child in busy:
                    child.hear(heard)

            first = _result(self.work(jobs[0]), heard_here)
            taken = [child.take(heard) if begun else None for child, begun in zip(self.children, given, strict=True)]
            if None in taken:
                self.close()
            rest = [
                _result(self.work(job), heard) if one is None else one for job, one in zip(jobs[1:], taken, strict=True)
            ]
            return [first, *rest]
        except BaseException:
            self.close()  # whose results nobody takes any more
            raise
        finally:
            torch.set_num_threads(threads)
            gc.unfreeze()


class _ForkedWorker:
    """One worker, seen from its parent: messages go there and come back, each after its size."""

    def __init__(self, work: Work, elders: Sequence[_ForkedWorker]) -> None:
        self.result: bytes | None = None
        (theirs_in, ours_out), (ours_in, theirs_out) = os.pipe(), os.pipe()
        with forking():
            self.process = os.fork()
        if self.process:
            os.close(theirs_in)
            os.close(theirs_out)
            # Without a buffer: ``select`` sees what has come.
            self.out, self.back = os.fdopen(ours_out, "wb"), os.fdopen(ours_in, "rb", buffering=0)
            return
        try:
            as_a_child()
            for number in (ours_out, ours_in, *(pipe.fileno() for one in elders for pipe in (one.out, one.back))):
                os.close(number)  # or the others' pipes would not end with their parent
            _serve(work, os.fdopen(theirs_in, "rb"), os.fdopen(theirs_out, "wb"))
        finally:
            os._exit(0)  # nothing of the parent's is flushed, closed or removed twice

    def lives(self) -> bool:
        with contextlib.suppress(ChildProcessError):  # where ended children are not kept
            return os.waitpid(self.process, os.WNOHANG) == (0, 0)
        return False

    def give(self, job: bytes) -> bool:
        """Whether it has taken the job."""
        try:
            _write(self.out, job)
        except BrokenPipeError:
            return False
        return True

    def hear(self, heard: Heard) -> None:
        """Pass on the messages that have come."""
        while self.result is None and select.select([self.back], [], [], 0)[0] and self._next(heard):
            pass

    def take(self, heard: Heard) -> bytes | None:
        """The result, after all messages; None from a process that has ended."""
        while self.result is None and self._next(heard):
            pass
        found, self.result = self.result, None
        return found

    def _next(self, heard: Heard) -> bool:
        """Read one message or the result; False where the process has ended."""
        if (found := _read(self.back)) is None:
            return False
        if found[:1] == RESULT:
            self.result = found[1:]
        else:
            heard(found[1:])
        return True

    def end(self) -> None:
        for pipe in (self.out, self.back):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.process, signal.SIGKILL)  # it is idle, or nobody waits for it any more
            os.waitpid(self.process, 0)


def _end(parent: int, children: list[_ForkedWorker]) -> None:
    """All of them; a copy of the parent, forked by somebody else, has none."""
    while children and os.getpid() == parent:
        children.pop().end()


def _serve(work: Work, jobs: BinaryIO, results: BinaryIO) -> None:
    """What a worker does until its parent ends or forgets it."""
    while select.select([jobs], [], [], IDLE)[0] and (job := _read(jobs)) is not None:
        _write(results, RESULT + _result(work(job), lambda message: _write(results, MESSAGE + message)))


def _result(made: bytes | Generator[bytes, None, bytes], heard: Heard) -> bytes:
    """The result, after ``heard`` has got each message."""
    if isinstance(made, bytes):
        return made
    while True:
        try:
            heard(next(made))
        except StopIteration as end:
            return bytes(end.value)


def _write(pipe: BinaryIO, message: bytes) -> None:
    pipe.write(len(message).to_bytes(SIZE) + message)
    pipe.flush()


def _read(pipe: BinaryIO | FileIO) -> bytes | None:
    """The next message; None where it breaks off."""
    size = _exactly(pipe, SIZE)
    return None if size is None else _exactly(pipe, int.from_bytes(size))


def _exactly(pipe: BinaryIO | FileIO, count: int) -> bytes | None:
    """So many bytes; None where they break off."""
    found = bytearray()
    while len(found) < count:
        if not (more := pipe.read(count - len(found))):
            return None
        found += more
    return bytes(found)
