"""The limits of a server: of one request, and of all together."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits of a server."""

    body: int = 1 << 20  # bytes of a request
    texts: int = 256  # of a request
    characters: int = 50_000  # of a request's texts together, also after normalisation
    in_hand: int = 512  # sentences that are being translated at once, after texts are split; more are refused
    patience: float = 10.0  # seconds for a request's body to arrive
