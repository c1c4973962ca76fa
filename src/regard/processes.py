"""Work on several CPU cores as forked processes: each begins with all that this one has in memory, and starts at once.

Threads of one Python wait for each other between operators, which costs a decoding a third of its speed
(docs/benchmarks.md). A forked process has no such neighbour. It keeps to one thread in PyTorch, as PyTorch's own data
loaders do: of the threads that its parent may have used, it has none.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO, TypeVar

import torch

Part = TypeVar("Part")

SIZE = 8  # bytes of a number

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


def side_by_side(work: Callable[[Part], bytes], parts: Sequence[Part]) -> list[bytes]:
    """What ``work`` makes of each part, in order: of the first here, of each other in a process of its own.

    A process that ends before its work is done, by an error or by force, leaves its part to this one, in which an
    error then is the caller's to see.
    """
    gc.freeze()  # nothing that is there already is looked through for garbage: PyTorch alone is half a million objects
    children = [_forked(work, part) for part in parts[1:]]
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // len(parts)))
    try:
        found = [work(parts[0])]
        for (_, pipe), part in zip(children, parts[1:], strict=True):
            size, result = int.from_bytes(pipe.read(SIZE)), pipe.read()
            found.append(result if len(result) + 1 == size else work(part))
        return found
    finally:
        torch.set_num_threads(threads)
        gc.unfreeze()
        for process, pipe in children:
            pipe.close()
            with contextlib.suppress(ProcessLookupError, ChildProcessError):  # where ended children are not kept
                os.kill(process, signal.SIGKILL)  # it is done, or nobody waits for it any more
                os.waitpid(process, 0)


def _forked(work: Callable[[Part], bytes], part: Part) -> tuple[int, BinaryIO]:
    """A process that does the work, and the pipe from which its message is read: 1 + the result's size, the result."""
    ours, theirs = os.pipe()
    with forking():
        process = os.fork()
    if process:
        os.close(theirs)
        return process, os.fdopen(ours, "rb")
    try:
        as_a_child()
        result = work(part)
        with os.fdopen(theirs, "wb") as pipe:
            pipe.write((len(result) + 1).to_bytes(SIZE) + result)
    finally:
        os._exit(0)  # nothing of the parent's is flushed, closed or removed twice
