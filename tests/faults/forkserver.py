"""A process that imports PyTorch once and forks a real ``regard`` process for every request.

Starting Python and importing PyTorch costs seconds, a fork milliseconds: fifty trainings that are killed and resumed
would else spend most of their time on imports. The child has its own process id, memory and files, runs the command
line's ``main`` with the arguments it was given, and is killed like any other process.

Run as a program this file is the server: one JSON request a line on standard input, one reply a line on standard
output. ``{"start": [arguments], "environment": {…}, "log": FILE, "folder": DIR}`` → ``{"pid": N}``;
``{"wait": N, "seconds": S}`` → ``{"code": C}``, negative for a signal, as in ``subprocess``.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class Server:
    """The test's end of the pipe; use it as a context."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
        )

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *rest: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(30)

    def start(
        self, arguments: Sequence[str], log: Path, folder: Path, environment: Mapping[str, str] | None = None
    ) -> int:
        """Begin ``regard ARGUMENTS`` in ``folder`` with its output in ``log``; returns the process id."""
        request = {
            "start": [*arguments],
            "environment": dict(environment or {}),
            "log": str(log),
            "folder": str(folder),
        }
        return int(self._ask(request)["pid"])

    def wait(self, pid: int, seconds: float = 120) -> int:
        """The exit code; a process that takes longer is killed, and that is an error."""
        reply = self._ask({"wait": pid, "seconds": seconds})
        assert "code" in reply, f"process {pid} did not end within {seconds} s"
        return int(reply["code"])

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        reply: dict[str, Any] = json.loads(self.process.stdout.readline())
        return reply


def serve() -> None:
    import torch
    import torch._dynamo  # noqa: F401  (torch.optim imports it when the first optimizer is made: seconds)
    import torch.utils.tensorboard  # noqa: F401

    import regard.cli.main  # noqa: F401
    import regard.cli.train  # noqa: F401
    import regard.training.loop  # noqa: F401
    import regard.training.session

    # The machine's matrix rate is for the eye, and its measurement takes longer than these trainings. Everything else
    # is as installed; tests/faults/test_prove.py kills processes that nobody touched.
    regard.training.session.rate_for = lambda *_, **__: 0.0  # type: ignore[assignment]
    # No product was computed and no thread was started before a fork: OpenMP would not survive it.
    torch.set_num_threads(1)
    for line in sys.stdin:
        request = json.loads(line)
        reply = {"pid": _start(request)} if "start" in request else _wait(request["wait"], request["seconds"])
        print(json.dumps(reply), flush=True)


def _start(request: Mapping[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.chdir(request["folder"])
        os.environ.update(request["environment"])
        from regard.cli.main import main

        code = main(request["start"])
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # not back into the server's loop


def _wait(pid: int, seconds: float) -> dict[str, Any]:
    end = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return {"code": os.waitstatus_to_exitcode(status)}
        if time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return {"late": pid}
        time.sleep(0.01)


if __name__ == "__main__":
    serve()
