"""Ctrl-C stops a run after its current update or validation step; a second Ctrl-C stops it at once."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType


@contextlib.contextmanager
def interrupts() -> Iterator[Callable[[], bool]]:
    """Inside, SIGINT and SIGTERM set a flag; the yielded function reads it."""
    asked = False

    def handler(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        sys.stderr.write("\nstopping after what is being done, and saving (Ctrl-C again: stop at once)\n")

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # only the main thread of a process receives signals
        return
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
