"""The keys that each query of an attention sees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from regard.nn.packing import Packing
from regard.nn.padding import everything_is_real, real

T = TypeVar("T")


@dataclass(frozen=True)
class Layout:
    """The keys that each query of an attention sees; made once per forward, above the layers. Only cores read it.

    A query sees a key where all three of these allow it:

    - ``lengths`` [B]: keys behind a sentence's length are padding. None: no padding, or none that a real query sees.
    - ``causal``: query i sees keys 0 … i. Kernels know this case without a mask.
    - ``mask``: boolean, broadcastable to [B, 1, Q, S], True = may attend. None: nothing else is hidden.

    ``positions`` [B, Q] and ``key_positions`` [B, S] are token positions in their sentences; None: 0, 1, 2 ….
    With a ``packing`` the queries are packed rows, [1, R, D]; with a ``key_packing`` the keys are.
    """

    lengths: Tensor | None = None
    causal: bool = False
    mask: Tensor | None = None
    positions: Tensor | None = None
    key_positions: Tensor | None = None
    packing: Packing | None = None
    key_packing: Packing | None = None
    _shared: dict[object, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @staticmethod
    def padded(lengths: Tensor, size: int, causal: bool = False, *, packing: Packing | None = None) -> Layout:
        """Self-attention of right-padded sentences, ``lengths`` [B], among ``size`` positions, packed or not.

        With ``causal``, padding needs no mask: it is on the right, where no real query sees it. The results of padded
        queries are never read.
        """
        hidden = None if causal or everything_is_real(lengths, size) else lengths
        return Layout(lengths=hidden, causal=causal, packing=packing, key_packing=packing)

    @staticmethod
    def cross(key_lengths: Tensor, size: int, *, queries: Packing | None = None, keys: Packing | None = None) -> Layout:
        """Attention from one sequence to the ``size`` positions of another, each with its packing if it has one.

        The results of padded queries are never read.
        """
        hidden = None if everything_is_real(key_lengths, size) else key_lengths
        return Layout(lengths=hidden, packing=queries, key_packing=keys)

    @staticmethod
    def cached(visible: Tensor, positions: Tensor, key_positions: Tensor | None = None) -> Layout:
        """One decoding step: ``visible`` [B, N, slots] bool says which slots of the cache each of N queries sees.

        ``positions`` [B, N] are those of the queries, ``key_positions`` [B, slots] those of the slots.
        """
        return Layout(mask=visible[:, None], positions=positions, key_positions=key_positions)

    def padded_rows(self) -> Layout:
        """The same layout for queries and keys that were unpacked."""
        return self.once("padded rows", lambda: replace(self, packing=None, key_packing=None))

    def within(self, window: int, queries: int, keys: int, device: torch.device) -> Layout:
        """The same layout where a query sees only keys less than ``window`` positions away."""

        def make() -> Layout:
            near = self.distances(queries, keys, device).abs()[:, None] < window
            return replace(self, mask=near if self.mask is None else self.mask & near)

        return self.once(("within", window, queries, keys), make)

    def distances(self, queries: int, keys: int, device: torch.device) -> Tensor:
        """Key position − query position, [B or 1, Q, S]."""
        of_queries = torch.arange(queries, device=device)[None] if self.positions is None else self.positions
        of_keys = self.key_positions
        if of_keys is None:
            of_keys = of_queries if queries == keys else torch.arange(keys, device=device)[None]
        return of_keys[:, None, :] - of_queries[:, :, None]

    def hides(self) -> bool:
        """Whether there may be a key that some query does not see."""
        return self.causal or self.lengths is not None or self.mask is not None

    def allowed(self, queries: int, keys: int, device: torch.device) -> Tensor | None:
        """All that hides keys as one mask, broadcastable to [B, 1, Q, S]; None where every query sees every key."""
        allowed = self.mask
        if self.lengths is not None:
            tokens = real(self.lengths, keys)[:, None, None, :]
            allowed = tokens if allowed is None else allowed & tokens
        if self.causal:
            before = torch.ones(queries, keys, dtype=torch.bool, device=device).tril_()
            allowed = before if allowed is None else allowed & before
        return allowed

    def once(self, key: object, make: Callable[[], T]) -> T:
        """A value that the layers of one forward share: ``make()`` at the first call with ``key``."""
        if key not in self._shared:
            self._shared[key] = make()
        found: T = self._shared[key]
        return found
