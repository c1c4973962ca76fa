"""Ctrl-C ends a verb whenever it comes, also while PyTorch is being imported, where Python alone may miss it."""

from __future__ import annotations

import signal
import subprocess
import time

import pytest

from .conftest import PROGRAM


@pytest.mark.parametrize("seconds", [0.4, 0.6, 0.8, 1.1, 1.5])
def test_a_server_that_starts_is_stopped_by_one_ctrl_c(seconds: float) -> None:
    command = [PROGRAM, "serve", "zh-en", "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    try:
        _, said = process.communicate(timeout=30)
    finally:
        process.kill()
    assert b"Traceback" not in said
    assert process.returncode in (0, 130), said.decode()
