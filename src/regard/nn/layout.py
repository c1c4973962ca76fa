"""Who sees whom in one attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from regard.nn.packing import Packing, _once
from regard.nn.padding import everything_is_real, real


@dataclass(frozen=True)
class Layout:
    """Who sees whom in one attention; made once per forward, above the layers, and read by the core only.

    ``mask`` is boolean and broadcastable to [B, 1, Q, S] (True = may attend), or None where nothing is hidden.
    ``causal`` says, with ``mask`` None, that query i sees keys 0 … i: kernels know this case without a mask.
    ``positions`` [B, Q] and ``key_positions`` [B, S] are the tokens' places in their sentences; None is 0, 1, 2 ….
    With a ``packing``, what comes and goes is [R, D], the real tokens, and likewise for ``key_packing`` and a memory.
    """

    mask: Tensor | None = None
    causal: bool = False
    positions: Tensor | None = None
    key_positions: Tensor | None = None
    packing: Packing | None = None
    key_packing: Packing | None = None
    _biases: dict[object, Tensor] = field(default_factory=dict, repr=False, compare=False)

    @staticmethod
    def padded(lengths: Tensor, size: int, causal: bool = False, *, packing: Packing | None = None) -> Layout:
        """Self-attention of right-padded sentences, ``lengths`` [B], among ``size`` positions, or as they are packed.

        With ``causal`` no mask is needed for the padding: it stands on the right, where no real query looks.
        (Rows of padding see what they like; nobody reads them.)
        """
        if causal or everything_is_real(lengths, size):
            return Layout(causal=causal, packing=packing)
        return Layout(mask=real(lengths, size)[:, None, None, :], packing=packing)

    @staticmethod
    def cross(key_lengths: Tensor, size: int, *, queries: Packing | None = None, keys: Packing | None = None) -> Layout:
        """Attention from one sequence to the ``size`` positions of another, each with its packing if it has one.

        Rows of padded queries see what the others see; nobody reads them.
        """
        if everything_is_real(key_lengths, size):
            return Layout(packing=queries, key_packing=keys)
        return Layout(mask=real(key_lengths, size)[:, None, None, :], packing=queries, key_packing=keys)

    @staticmethod
    def cached(visible: Tensor, positions: Tensor, key_positions: Tensor | None = None) -> Layout:
        """One decoding step: ``visible`` [B, N, slots] bool says which slots of the cache each of N queries sees.

        ``positions`` [B, N] are the queries' places, ``key_positions`` [B, slots] those of the slots.
        """
        return Layout(mask=visible[:, None], positions=positions, key_positions=key_positions)

    def allowed(self, queries: int, keys: int, device: torch.device) -> Tensor | None:
        """The mask written out, broadcastable to [B, 1, Q, S]; None where every query sees every key."""
        if not self.causal:
            return self.mask
        causal = torch.ones(queries, keys, dtype=torch.bool, device=device).tril_()
        return causal if self.mask is None else self.mask & causal

    def once(self, key: object, make: Callable[[], Tensor]) -> Tensor:
        """A tensor that the layers of one forward share, made when it is first asked for."""
        return _once(self._biases, key, make)
