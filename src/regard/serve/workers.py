"""The worker pool: workers, each of which decodes sentences of all requests on one core.

A sentence that comes while others are decoded takes the row of a finished one (decoding/scheduler.py). On a CPU under
Linux a worker is a forked process that shares the weights of this one; elsewhere it is a thread. A worker that ends is
replaced. While none can be started (no process, no file descriptor) the others decode, and requests get 503 if there
are no others.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from regard.decoding.messages import of_inputs
from regard.decoding.running_batch import Hypothesis, Result
from regard.decoding.scheduler import Step
from regard.decoding.search import Search
from regard.decoding.waiting import Input, size
from regard.errors import RegardError
from regard.machine.processes import as_a_child, forking
from regard.serve.worker import Served, work, written

TRIES = 4  # workers that may end while they have a sentence, before that is an error
AGAIN = 1.0  # seconds after which a worker that could not be started is tried again


class Done(NamedTuple):
    """A sentence's n best, and when its decoding began (``time.monotonic``)."""

    hypotheses: list[Hypothesis]
    began: float


class WorkerEnded(Exception):
    """The worker that was to decode a sentence has ended; another one can."""


class ClientLeft(Exception):
    """The client that a sentence was decoded for has disconnected; the sentence is dropped."""


class Unavailable(RegardError):
    """No worker is running, or the server is closing."""


class Caller:
    """A request that waits for sentences, which are dropped when its client leaves."""

    def __init__(self) -> None:
        self.left = False
        self.waits_for: set[Future[Done]] = set()


@dataclass
class Worker:
    """A worker: our end of its pipe, and the sentences that it has in hand, by number."""

    pipe: Connection
    process: Any  # None: a thread
    pending: dict[int, Future[Done]]
    lock: threading.Lock

    def send(self, message: object) -> None:
        with self.lock, contextlib.suppress(OSError):  # the thread that reads its pipe replaces a worker that has ended
            self.pipe.send_bytes(json.dumps(message).encode())


class WorkerPool:
    """The workers of a server, and the sentences that they have in hand."""

    def __init__(self, models: Mapping[str, Served], workers: int, batch_tokens: int = 4096) -> None:
        self._models, self._batch_tokens = models, batch_tokens
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        on_cpu = all(next(served.model.parameters()).device.type == "cpu" for served in models.values())
        self._forks = on_cpu and sys.platform == "linux"
        gc.freeze()  # objects made so far are not searched for garbage, so that their memory stays shared
        self._workers: list[Worker] = []
        for _ in range(workers if self._forks else 1):
            try:
                self._workers.append(self._start())
            except (OSError, RuntimeError) as error:
                self.close()
                raise RegardError(f"cannot start {workers} decoding processes ({error}); use fewer --threads") from None

    @property
    def in_hand(self) -> int:
        """Sentences that wait or are being decoded."""
        return sum(len(worker.pending) for worker in self._workers)

    def submit(self, name: str, inputs: Sequence[Input], search: Search, caller: Caller) -> list[Future[Done]]:
        """Give each sentence to the worker that has the fewest in hand."""
        shares: dict[int, list[Input]] = {}
        futures: list[Future[Done]] = []
        with self._lock:
            if self._closed.is_set():
                raise Unavailable("the server is closing")
            if caller.left:
                raise ClientLeft()
            if not self._workers:
                raise Unavailable("no decoding process is running: come again soon")
            for one in inputs:
                least = min(range(len(self._workers)), key=lambda i: len(self._workers[i].pending))
                number, future = next(self._numbers), Future[Done]()
                self._workers[least].pending[number] = future
                shares.setdefault(least, []).append(replace(one, number=number))
                futures.append(future)
            caller.waits_for = set(futures)
            chosen = [(self._workers[index], sentences) for index, sentences in shares.items()]
        for worker, sentences in chosen:
            worker.send([name, written(search), of_inputs(sentences)])
        return futures

    def leave(self, caller: Caller) -> None:
        """Drop the sentences of a caller; those that are being decoded are decoded to their end, for nobody."""
        dropped: list[tuple[Worker, list[int]]] = []
        with self._lock:
            caller.left = True
            for worker in self._workers:
                numbers = [number for number, future in list(worker.pending.items()) if future in caller.waits_for]
                futures = [future for number in numbers if (future := worker.pending.pop(number, None))]
                for future in futures:
                    future.set_exception(ClientLeft())
                if numbers:
                    dropped.append((worker, numbers))
        for worker, numbers in dropped:
            worker.send([None, None, numbers])

    def close(self) -> None:
        """Ends the workers; what they have in hand is lost. A worker that is a thread ends with this process."""
        with self._lock:
            self._closed.set()
            workers = list(self._workers)
        for worker in workers:
            if worker.process is not None:
                worker.process.kill()
                worker.process.join()

    def _start(self) -> Worker:
        """A new worker; OSError or RuntimeError where the system gives no process, thread or file descriptor."""
        with contextlib.ExitStack() as undo:
            ours, theirs = multiprocessing.Pipe()
            undo.callback(ours.close)
            process: Any = None
            if self._forks:
                undo.callback(theirs.close)
                process = multiprocessing.get_context("fork").Process(
                    target=_forked, args=(self._models, theirs, self._batch_tokens), daemon=True
                )
                with forking():
                    process.start()
                undo.callback(process.kill)
                theirs.close()
            else:
                threading.Thread(target=work, args=(self._models, theirs, self._batch_tokens), daemon=True).start()
            worker = Worker(ours, process, {}, threading.Lock())
            threading.Thread(target=self._listen, args=(worker,), daemon=True).start()
            undo.pop_all()
        return worker

    def _listen(self, worker: Worker) -> None:
        """Pass on the results of a worker; when it ends, its sentences fail with WorkerEnded and it is replaced."""
        try:
            with contextlib.suppress(EOFError, OSError):
                while True:
                    for number, began, found in json.loads(worker.pipe.recv_bytes()):
                        if future := worker.pending.pop(number, None):  # else its caller has left
                            future.set_result(Done([Hypothesis(*one) for one in found], began))
        finally:
            self._forget(worker)
            self._replace()

    def _forget(self, worker: Worker) -> None:
        """Remove a worker that has ended; its sentences fail with WorkerEnded."""
        with self._lock:
            if worker in self._workers:
                self._workers.remove(worker)
        while worker.pending:
            with contextlib.suppress(KeyError):  # its caller leaves at the same time
                worker.pending.popitem()[1].set_exception(WorkerEnded())
        if worker.process is not None and not self._closed.is_set():  # else ``close`` ends it
            worker.process.kill()  # where it only closed its pipe
            worker.process.join()
        worker.pipe.close()  # here alone: no other thread closes what this one reads

    def _replace(self) -> None:
        """Start a worker instead of one that has ended: now, or as soon as the system allows it."""
        failed = False
        while not self._closed.is_set():
            try:
                with self._lock:
                    if not self._closed.is_set():
                        self._workers.append(self._start())
                        _say("a decoding process ended; another takes its place")
                return
            except (OSError, RuntimeError) as error:
                if not failed:
                    _say(f"a decoding process ended, and no other can be started ({error}); trying again each second")
                failed = True
            self._closed.wait(AGAIN)


def _say(text: str) -> None:
    print(f"regard: {text}", file=sys.stderr, flush=True)


def _forked(models: Mapping[str, Served], pipe: Connection, batch_tokens: int) -> None:
    _keep_only(pipe.fileno())
    as_a_child()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the server ends this process when all is answered
    work(models, pipe, batch_tokens)


def _keep_only(pipe: int) -> None:
    """Give up the server's sockets and the pipes of other workers; standard streams stay.

    A socket stays open until every process has closed it: a client would not see that the server has closed its
    connection, and the port would take connections that nobody answers. ``/dev/null`` takes each number, so that an
    object of the server that closes its descriptor later closes nothing that this process has opened.
    """
    null = os.open(os.devnull, os.O_RDWR)
    try:
        numbers = [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:
        numbers = list(range(min(1 << 16, os.sysconf("SC_OPEN_MAX"))))
    for number in numbers:
        if number > 2 and number not in (pipe, null):
            with contextlib.suppress(OSError):  # not open
                os.fstat(number)
                os.dup2(null, number)


class Calls(threading.local):
    """The calls of a thread: their caller, and the seconds that they waited and were decoded since both were 0."""

    waiting = 0.0
    decoding = 0.0
    caller: Caller | None = None


class PoolBackend:
    """A backend (decoding/backends.py) that decodes the sentences of calls from all threads together."""

    def __init__(self, pool: WorkerPool, name: str) -> None:
        self.pool, self.name = pool, name
        self.calls = Calls()

    def __call__(
        self,
        inputs: Sequence[Input],
        search: Search,
        batch_tokens: int,
        on_step: Callable[[Step], None] | None = None,
    ) -> list[Result]:
        if on_step is not None:
            raise RegardError("a server's decoding processes send no steps")
        found: dict[int, Done] = {}
        came = time.monotonic()
        caller = self.calls.caller or Caller()
        for _ in range(TRIES):
            missing = [i for i in range(len(inputs)) if i not in found]
            missing.sort(key=lambda i: -size(inputs[i]))  # like lengths together
            futures = self.pool.submit(self.name, [inputs[i] for i in missing], search, caller)
            for i, future in zip(missing, futures, strict=True):
                with contextlib.suppress(WorkerEnded):
                    found[i] = future.result()
            if len(found) == len(inputs):
                break
        else:
            raise Unavailable("decoding processes end before they have decoded this text")
        if found:
            began = min(done.began for done in found.values())
            self.calls.waiting += began - came
            self.calls.decoding += time.monotonic() - began
        return [Result(one.number, found[i].hypotheses) for i, one in enumerate(inputs)]
