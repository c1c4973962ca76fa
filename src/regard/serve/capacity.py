"""How much may be in hand at once, of all clients together; a request that does not fit is refused at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from starlette.exceptions import HTTPException


class Capacity:
    """Room for ``most`` of ``what`` at once.

    Only the event loop uses an object of this class, so that no other request runs between check and count.
    """

    def __init__(self, most: int, what: str) -> None:
        self.most, self.what, self.taken = most, what, 0

    @contextmanager
    def take(self, count: int) -> Iterator[None]:
        """Room for ``count`` while the context lasts; 413 if so many never fit, 503 if they do not fit now."""
        if count > self.most:
            raise HTTPException(413, f"{count:,} {self.what}; this server takes {self.most:,} at once: send less")
        if self.taken + count > self.most:
            raise HTTPException(503, f"too many {self.what} at once: come again soon", {"Retry-After": "1"})
        self.taken += count
        try:
            yield
        finally:
            self.taken -= count
