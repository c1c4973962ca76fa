"""The slots of a key/value cache: which of them are dead, which a hypothesis sees, which a step writes and reads.

Each sentence has a row of slots. A prompt takes one slot a token, for all its hypotheses together; a step takes one
slot a hypothesis. ``visible`` [B, N, slots] says which slots hold the ancestors of hypothesis n: reordering changes
nothing else. A slot that no hypothesis sees (its own has no descendants, or it holds padding) is dead, and is written
next. A sentence takes its own first dead slots, so that its slots depend on no other sentence.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from regard.nn.layout import Layout
from regard.nn.padding import everything_is_real, real
from regard.nn.rows import Rows

# Steps for which slots are allocated ahead. Unused slots lie between the keys of two heads: with more than a few,
# PyTorch's operators take twice as long to read the keys, since the processor prefetches the unused slots.
AHEAD = 4
FIXED_AHEAD = 32  # the same where steps are captured: each allocation changes their shapes


class CacheShape(NamedTuple):
    """The shape of a slot in an attention's cache: ``groups`` keys of width ``key`` and values of width ``value``."""

    groups: int
    key: int
    value: int


class Slots:
    """The slots of ``batch`` sentences with ``beams`` hypotheses each, of up to ``capacity`` tokens."""

    def __init__(self, batch: int, beams: int, capacity: int, device: torch.device) -> None:
        self.batch, self.beams, self.capacity, self.device = batch, beams, capacity, device
        self.position = torch.zeros(batch, dtype=torch.int64, device=device)  # [B] tokens that each hypothesis has
        self.visible = torch.zeros(batch, beams, 0, dtype=torch.bool, device=device)  # [B, N, slots]
        self.key_positions = torch.zeros(batch, 0, dtype=torch.int64, device=device)  # [B, slots]
        # Known on the host, so that a step needs no synchronisation:
        self.count = 0  # slots allocated
        self.used = 0  # no sentence has more live slots than this
        self.top = 0  # slots that have been written, at most
        self.longest = 0  # tokens of the longest hypothesis
        self.open = True  # every slot that is read is seen by every hypothesis: no mask is needed
        self.fixed = False  # all slots are read, with a mask: equal shapes, to capture steps (decoding/graphs.py)
        # Of the current step:
        self.new = torch.zeros(batch, 0, dtype=torch.int64, device=device)  # [B, Q] the slots that are written
        self.fresh = False  # nothing was written before
        self.extent = 0  # slots that are read

    # -- one step ------------------------------------------------------------------------------------------------------

    def check(self, queries: int, lengths: Tensor | None) -> None:
        """ValueError if a step's ``queries`` are not one for each hypothesis, or hypotheses exceed the capacity.

        ``lengths`` as in ``advance``.
        """
        if lengths is None and queries != self.beams:
            raise ValueError(f"a step takes one token for each of {self.beams} hypotheses, and got {queries}")
        longest = self.longest + (1 if lengths is None else queries)
        if longest > self.capacity:
            raise ValueError(f"hypotheses of {longest} tokens are more than the state's capacity of {self.capacity}")

    def wanted(self, queries: int) -> int:
        """How many slots there have to be, so that every sentence has ``queries`` dead ones."""
        if self.used + queries > self.count and self.beams > 1:
            self.used = self._most_live()
        needed = self.used + queries
        if needed <= self.count:
            return self.count
        most = needed + (self.capacity - self.longest) * self.beams
        # Longer rows get more unused slots: these cost relatively less to skip, and the copies of ``resize`` more.
        ahead = FIXED_AHEAD * self.beams if self.fixed else max(AHEAD * self.beams, needed // 8)
        return min(needed + ahead, most)

    def advance(self, queries: int, lengths: Tensor | None, extent: int | None = None) -> Layout:
        """Assigns dead slots, which must be there, to ``queries`` new tokens of each sentence → what each query sees.

        ``lengths`` [B]: the tokens are a right-padded prompt for all hypotheses. None: one for each hypothesis.
        ``extent``: how many slots are read; None: as many as are in use.
        """
        self.fresh = self.top == 0 and lengths is not None
        self.new = self._dead(queries)
        self.top = max(self.top, self.used + queries)
        self.extent = self.count if self.fixed else self.top if extent is None else extent
        if lengths is None:
            positions = self.position[:, None].expand(-1, queries)
            seen = torch.eye(queries, dtype=torch.bool, device=self.device)[None]
            self.open = self.open and queries == 1
        else:
            positions = self.position[:, None] + torch.arange(queries, device=self.device)
            seen = real(lengths, queries)[:, None, :]
            self.open = self.open and everything_is_real(lengths, queries)
        index = self.new[:, None].expand(-1, self.beams, -1)
        self.visible.scatter_(2, index, seen.expand_as(index))
        self.key_positions.scatter_(1, self.new, positions)
        return self._layout(positions, prompt=lengths is not None)

    def _layout(self, positions: Tensor, prompt: bool) -> Layout:
        if self.fresh:
            return Layout(causal=True)
        visible, key_positions = self.visible[:, :, : self.extent], self.key_positions[:, : self.extent]
        if prompt:  # its tokens see the slots that all hypotheses share, and no later token of the prompt
            visible = visible[:, :1] & (key_positions[:, None, :] <= positions[:, :, None])
        elif self.open and self.extent == self.top and not self.fixed:
            return Layout(positions=positions, key_positions=key_positions)
        return Layout.cached(visible, positions, key_positions)

    def advanced(self, queries: int, lengths: Tensor | None) -> None:
        """Counts the tokens of ``advance``, once all layers have written theirs."""
        self.fresh = False
        self.used += queries
        self.position += 1 if lengths is None else lengths
        self.longest += 1 if lengths is None else queries

    def replayed(self) -> None:
        """Counts, on the host, a captured step that was replayed."""
        self.top = max(self.top, self.used + self.beams)
        self.used += self.beams
        self.longest += 1

    def _dead(self, count: int) -> Tensor:
        """Each sentence's first ``count`` slots that no hypothesis sees, [B, count]."""
        if self.top == 0:
            return torch.arange(count, device=self.device).expand(self.batch, count)
        if self.beams == 1:  # no slot dies
            return self.position[:, None] + torch.arange(count, device=self.device)
        return self.visible.any(1).to(torch.uint8).argsort(dim=1, stable=True)[:, :count]

    def _most_live(self) -> int:
        return int(self.visible.any(1).sum(1).max()) if self.visible.numel() else 0

    # -- reordering, leaving, entering ---------------------------------------------------------------------------------

    def resize(self, count: int) -> None:
        """Changes the number of slots of each sentence to ``count``; added slots are dead."""
        self.count = count
        self.visible, self.key_positions = resized(self.visible, 2, count), resized(self.key_positions, 1, count)

    def follow(self, parents: Tensor) -> None:
        """Hypothesis n goes on from hypothesis parents[b, n], parents [B, N]."""
        index = parents[:, :, None].expand(-1, -1, self.visible.shape[2])
        self.visible = self.visible.gather(1, index)

    def keep(self, index: Tensor) -> None:
        """Keeps the chosen sentences, index [B'], and no slot after the last one that their hypotheses see."""
        self.batch = len(index)
        self.position = self.position.index_select(0, index)
        visible = self.visible.index_select(0, index)
        seen = visible.any(1)  # [B', slots]
        self.count = self.top = int(seen.any(0).nonzero().amax()) + 1 if seen.any() else 0
        self.visible = self.visible.narrow(2, 0, self.count).index_select(0, index)
        self.key_positions = self.key_positions.narrow(1, 0, self.count).index_select(0, index)
        self.open = bool(self.visible.all())
        self._count_lengths()

    def admit(self, other: Slots, free: Tensor | None, rows: Rows) -> None:
        """Takes in other sentences, in their ``rows``; enough slots must be allocated.

        The ``free`` rows [F] that no sentence takes see no slots afterwards.
        """
        alone = rows.batch == other.batch
        self.open = other.open and (alone or (self.open and free is None)) and self.top in (0, other.top)
        self.top = max(self.top, other.top)
        if free is not None:
            self.visible.index_fill_(0, free, False)
            self.position.index_fill_(0, free, 0)
        self.visible = rows.put_first(self.visible, other.visible, 2, other.top)
        self.key_positions = rows.put_first(self.key_positions, other.key_positions, 1, other.top)
        self.position = rows.put(self.position, other.position)
        self.batch = rows.batch
        self.capacity = max(self.capacity, other.capacity)
        self._count_lengths()

    def _count_lengths(self) -> None:
        """Reads the lengths that the host keeps from the device: only where sentences leave or enter."""
        self.longest = int(self.position.max()) if self.batch else 0
        self.used = self.longest if self.beams == 1 else self._most_live()


def resized(x: Tensor, axis: int, size: int) -> Tensor:
    """A copy of x that is ``size`` long on an axis: cut off, or with zeros at its end."""
    kept = min(size, x.shape[axis])
    room = x.new_empty(*x.shape[:axis], size, *x.shape[axis + 1 :])
    room.narrow(axis, 0, kept).copy_(x.narrow(axis, 0, kept))
    room.narrow(axis, kept, size - kept).zero_()  # and not ``new_zeros`` above, which would write the kept part twice
    return room
