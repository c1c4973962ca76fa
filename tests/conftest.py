"""Common to all tests: one thread each, the corpora, and a last line that says what could not be tested here."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

# Before anything imports torch: small tensors gain nothing from threads, and several tests run beside one another.
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"):
    os.environ.setdefault(name, "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"

# A run that was started in the background ignores Ctrl-C, and so would every process that the tests start and stop.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import hypothesis  # noqa: E402
import pytest  # noqa: E402

pytest_plugins = ["fake_gpu", "tiny_config"]

ROOT = Path(__file__).resolve().parent.parent
MISSING = "missing: "

# The same examples on every run: a red test stays red until it is mended.
hypothesis.settings.register_profile("regard", derandomize=True, deadline=None)
hypothesis.settings.load_profile("regard")


def data_folder() -> Path:
    """Where the corpora are that may not be packaged: REGARD_DATA, or ../shared/data beside the repository."""
    return (ROOT / (os.environ.get("REGARD_DATA") or "../shared/data")).resolve()


def missing(what: str) -> None:
    """Skip a test for want of a corpus or a program; with CI set that is a failure."""
    if os.environ.get("CI", "").lower() not in ("", "0", "false"):
        pytest.fail(f"{MISSING}{what}, and CI is set")
    pytest.skip(f"{MISSING}{what}")


@pytest.fixture(scope="session")
def corpus() -> Callable[[str], Path]:
    """``corpus("multi30k")`` is the folder of a corpus; the test skips where it is not there."""

    def find(name: str) -> Path:
        folder = data_folder() / name
        if not folder.is_dir():
            missing(f"corpus {name}")
        return folder

    return find


def pytest_unconfigure(config: pytest.Config) -> None:
    """The last line: what was skipped because this machine lacks something."""
    reporter = config.pluginmanager.getplugin("terminalreporter")
    if reporter is None or hasattr(config, "workerinput"):
        return
    wants: Counter[str] = Counter()
    for report in reporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        _, found, what = reason.partition(MISSING)
        if found:
            wants[what] += 1
    if wants:
        listed = ", ".join(f"{what} ({count})" for what, count in sorted(wants.items()))
        reporter.write_line(
            f"skipped for what is not on this machine: {wants.total()} ({listed}). "
            f"Corpora are looked for in REGARD_DATA, here {data_folder()}"
        )
