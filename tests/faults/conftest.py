"""The fault tests share one fork server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from forkserver import Server


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with Server() as server:
        yield server
