"""A case that is a command line: ``regard ARGUMENTS`` in a forked process with limits, and what became of it."""

from __future__ import annotations

import contextlib
import importlib
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hostile import TEXT, Outcome

SECONDS = 10.0  # of a case; with more it counts as a hang
MEMORY = 1 << 30  # bytes beyond those that PyTorch and regard take
MODULES = (
    "torch",
    "safetensors.torch",
    "tomli_w",
    "rich.console",
    "regard.pipelines",
    "regard.training.loop",
    "regard.training.session",
    *(f"regard.cli.{name}" for name in ("main", "translate", "params", "score", "evaluate", "train", "average")),
)


@dataclass
class Ended:
    """The end of a process: its exit code (negative: a signal; None: it was stopped), output, time and memory."""

    code: int | None
    out: str
    err: str
    seconds: float
    memory: int


def prepare() -> None:
    """Import what the cases need, once, and start no thread: OpenMP would not survive a fork."""
    for module in MODULES:
        importlib.import_module(module)
    import torch

    torch.set_num_threads(1)


def attempt(arguments: Sequence[str], folder: Path, check: Callable[[str], str] = lambda verdict: "") -> Outcome:
    """Run ``regard ARGUMENTS``. ``check``: what is wrong with files after a verdict of "accepted" or "refused"."""
    # Linux counts the pages that a fork shares with its parent as the child's.
    baseline = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    ended = run(arguments, folder)
    verdict = judge(ended, arguments, baseline)
    if verdict in ("accepted", "refused"):
        verdict = check(verdict) or verdict
    said = f"regard {' '.join(arguments)}\n{ended.err}"
    return Outcome(verdict, ended.seconds, ended.memory - baseline, said)


def run(arguments: Sequence[str], folder: Path, seconds: float = SECONDS) -> Ended:
    """Run ``regard ARGUMENTS`` in a forked process that has a session, memory and standard streams of its own."""
    names = [folder / name for name in ("stdin", "stdout", "stderr")]
    names[0].write_text(TEXT, "utf-8")
    sys.stdout.flush()
    sys.stderr.flush()
    started = time.monotonic()
    pid = os.fork()
    if not pid:
        _become(arguments, names)
    ended: tuple[int, int, resource.struct_rusage] = (0, 0, resource.getrusage(resource.RUSAGE_SELF))
    while not ended[0] and time.monotonic() - started < seconds:
        time.sleep(0.005)
        ended = os.wait4(pid, os.WNOHANG)
    taken = time.monotonic() - started
    code = os.waitstatus_to_exitcode(ended[1]) if ended[0] else None
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)  # the processes that it may have left
    if not ended[0]:
        ended = os.wait4(pid, 0)
    out, err = (name.read_bytes().decode("utf-8", "surrogateescape") for name in names[1:])
    return Ended(code, out, err, taken, ended[2].ru_maxrss << 10)


def _become(arguments: Sequence[str], names: Sequence[Path]) -> None:
    """The child: never comes back."""
    code = 1
    try:
        os.setsid()
        for number, (name, flags) in enumerate(zip(names, (os.O_RDONLY, os.O_WRONLY, os.O_WRONLY), strict=True)):
            os.dup2(os.open(name, flags | os.O_CREAT | (os.O_TRUNC if number else 0), 0o644), number)
        sys.stdin, sys.stdout, sys.stderr = (open(n, mode, encoding="utf-8") for n, mode in enumerate("rww"))  # noqa: SIM115
        size = int(Path("/proc/self/statm").read_text("ascii").split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + 2 * MEMORY, size + 2 * MEMORY))
        from regard.cli.main import main

        code = main(list(arguments))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def judge(ended: Ended, arguments: Sequence[str], baseline: int) -> str:
    """ "accepted", "refused", or what is wrong."""
    lines = ended.err.splitlines()
    errors = [line for line in lines if line.startswith("regard: error: ")]
    if ended.code is None:
        return f"hangs: no end after {ended.seconds:.0f} s"
    if ended.code < 0:
        return f"ended by {signal.Signals(-ended.code).name}"
    if "Traceback" in ended.err or "panicked" in ended.err:
        return "a traceback"
    if any((ord(sign) < 32 and sign != "\n") or 127 <= ord(sign) < 160 for sign in ended.err):
        return "control characters on standard error"
    talks = arguments[0] == "train"  # it says what it does before anything can fail
    if ended.code and (len(errors) > 1 or not (talks or all(line.startswith("regard: ") for line in lines))):
        return "lines on standard error that are neither a notice nor the error"
    if "out of memory" in ended.err or ended.memory > baseline + MEMORY:
        return f"takes {(ended.memory - baseline) >> 20:,} MiB, or all there is"
    if ended.code == 2:
        return "refused" if errors and lines[-1] == errors[0] else "exit code 2 without one line that says why"
    if ended.code != 0 or errors:
        return f"exit code {ended.code} and {len(errors)} errors"
    if arguments[0] == "translate" and ended.out.count("\n") != TEXT.count("\n"):
        return "a line of the output is lost"
    return "accepted"
