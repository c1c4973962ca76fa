"""The key/value cache of decoding: slots that are written once and never moved when beams reorder.

Each sentence has one row of slots. A prompt fills one slot a token, for all its hypotheses together; a step fills one
slot a hypothesis. Which slots hypothesis n has among its ancestors is said by ``visible`` [B, N, slots], and that is
all that reordering touches. Slots that nobody sees any more are compacted away when they are most.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from regard.nn.layout import Layout, everything_is_real, real


class LayerCache:
    """Keys and values of one layer, [B, G, slots, K], written where the state says."""

    def __init__(self, state: KeyValueState) -> None:
        self.state = state
        self.key: Tensor | None = None
        self.value: Tensor | None = None

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Writes key, value [B, G, Q, K] into the state's new slots → all that may be seen, [B, G, slots read, K]."""
        state = self.state
        self.key, self.value = self._write(self.key, key), self._write(self.value, value)
        if state.fresh:  # nothing stood there before: what was just made is all there is
            return key, value
        return self.key[:, :, : state.extent], self.value[:, :, : state.extent]

    def _write(self, cache: Tensor | None, new: Tensor) -> Tensor:
        if cache is None:
            # Zeros, for a slot that is not visible still meets a weight of 0, and 0 · NaN is NaN.
            cache = new.new_zeros(*new.shape[:2], self.state.slots, new.shape[3])
        if self.state.even is not None:
            cache[:, :, self.state.even : self.state.even + new.shape[2]] = new
        else:
            cache.scatter_(2, self.state.target[:, None, :, None].expand_as(new), new)
        return cache


class KeyValueState:
    """What a Transformer decoder remembers: tensors only, sentences on axis 0, all changes in place on the object.

    ``capacity`` is how many tokens a hypothesis may have, its prompt included. ``memory`` holds each layer's keys and
    values of the encoder's output, [B, G, S, K], once per sentence.
    """

    def __init__(
        self,
        *,
        layers: int,
        batch: int,
        beams: int,
        capacity: int,
        device: torch.device,
        memory: Sequence[tuple[Tensor, Tensor]] | None = None,
        memory_lengths: Tensor | None = None,
    ) -> None:
        self.batch, self.beams, self.capacity = batch, beams, capacity
        self.device = device
        self.caches = [LayerCache(self) for _ in range(layers)]
        self.memory = None if memory is None else list(memory)
        self.memory_lengths = memory_lengths
        self.memory_layout = self._layout_of_memory()
        self.fill = torch.zeros(batch, dtype=torch.int64, device=device)  # [B] next free slot
        self.position = torch.zeros_like(self.fill)  # [B] tokens that each hypothesis has
        self.visible = torch.zeros(batch, beams, 0, dtype=torch.bool, device=device)  # [B, N, slots]
        self.key_positions = torch.zeros(batch, 0, dtype=torch.int64, device=device)  # [B, slots]
        # Known on the host, so that a step needs no synchronisation:
        self.slots = 0  # slots allocated
        self.top = 0  # slots in use by the fullest sentence
        self.longest = 0  # tokens of the longest hypothesis
        self.even: int | None = 0  # the fill of all sentences, where it is the same
        self._next_look = 16 * beams  # how many slots in use make it look for dead ones
        # Of the step under way:
        self.fresh = False
        self.extent = 0
        self.target = self.key_positions  # [B, Q] slots to be written

    # -- one step ------------------------------------------------------------------------------------------------------

    def advance(self, queries: int, lengths: Tensor | None, extent: int | None = None) -> Layout:
        """Gives ``queries`` new tokens a sentence their slots → who sees whom.

        ``lengths`` [B]: they are a prompt, right-padded, for all hypotheses. None: one token for each hypothesis.
        ``extent``: how many slots are read; None: as many as are in use.
        """
        if lengths is None and queries != self.beams:
            raise ValueError(f"a step takes one token for each of {self.beams} hypotheses, and got {queries}")
        longest = self.longest + (1 if lengths is None else queries)
        if longest > self.capacity:
            raise ValueError(f"hypotheses of {longest} tokens are more than the state's capacity of {self.capacity}")
        self._make_room(queries)
        self.fresh = self.top == 0 and lengths is not None
        self.extent = self.top + queries if extent is None else extent
        step = torch.arange(queries, device=self.device)
        self.target = self.fill[:, None] + step  # [B, Q]
        if lengths is None:
            positions = self.position[:, None].expand(-1, queries)
            self.visible.scatter_(2, self.target[:, :, None], True)
        else:
            positions = self.position[:, None] + step
            shown = real(lengths, queries)[:, None, :].expand(-1, self.beams, -1)
            self.visible.scatter_(2, self.target[:, None, :].expand_as(shown), shown)
        self.key_positions.scatter_(1, self.target, positions)
        return self._layout(positions, prompt=lengths is not None)

    def _layout(self, positions: Tensor, prompt: bool) -> Layout:
        if self.fresh:
            return Layout(causal=True)
        visible, places = self.visible[:, :, : self.extent], self.key_positions[:, : self.extent]
        if prompt:  # its tokens see what all hypotheses see, and one another in order
            visible = visible[:, :1] & (places[:, None, :] <= positions[:, :, None])
        return Layout.cached(visible, positions, places)

    def advanced(self, queries: int, lengths: Tensor | None) -> None:
        """Counts the tokens of ``advance``, once all layers have written theirs."""
        self.fresh = False
        self.top += queries
        if lengths is None:
            self.fill += queries
            self.position += 1
            self.longest += 1
        else:
            self.fill += lengths
            self.position += lengths
            self.longest += queries
            if not everything_is_real(lengths, queries):
                self.even = None
                return
        self.even = None if self.even is None else self.top

    # -- reordering, leaving, entering ---------------------------------------------------------------------------------

    def follow(self, parents: Tensor) -> None:
        """Hypothesis n goes on from hypothesis parents[b, n], parents [B, N]: only ``visible`` changes."""
        index = parents[:, :, None].expand(-1, -1, self.visible.shape[2])
        self.visible = self.visible.gather(1, index)

    def keep(self, index: Tensor) -> None:
        """Keeps the chosen sentences, index [B']."""
        self.batch = len(index)
        self._change_books(lambda book: book.index_select(0, index))
        self._change_caches(lambda cache: cache.index_select(0, index))
        if self.memory is not None and self.memory_lengths is not None:
            self.memory_lengths = self.memory_lengths.index_select(0, index)
            size = int(self.memory_lengths.max()) if self.batch else 0
            self.memory = [
                (key[:, :, :size].index_select(0, index), value[:, :, :size].index_select(0, index))
                for key, value in self.memory
            ]
            self.memory_layout = self._layout_of_memory()
        self._count()

    def admit(self, other: KeyValueState) -> None:
        """Appends the sentences of another state with as many beams and layers; ``other`` is not to be used again."""
        if other.beams != self.beams or len(other.caches) != len(self.caches):
            raise ValueError(f"a state of {other.beams} beams cannot enter one of {self.beams}")
        slots = max(self.slots, other.slots)
        self._allocate(slots)
        other._allocate(slots)
        for mine, theirs in zip(self.caches, other.caches, strict=True):
            mine.key = _joined(mine.key, theirs.key, self.batch, other.batch)
            mine.value = _joined(mine.value, theirs.value, self.batch, other.batch)
        self.visible = torch.cat([self.visible, other.visible])
        self.key_positions = torch.cat([self.key_positions, other.key_positions])
        self.fill, self.position = torch.cat([self.fill, other.fill]), torch.cat([self.position, other.position])
        if self.memory is not None and other.memory is not None:
            assert self.memory_lengths is not None and other.memory_lengths is not None
            pairs = zip(self.memory, other.memory, strict=True)
            self.memory = [(_above(a, c), _above(b, d)) for (a, b), (c, d) in pairs]
            self.memory_lengths = torch.cat([self.memory_lengths, other.memory_lengths])
            self.memory_layout = self._layout_of_memory()
        self.batch += other.batch
        self.capacity = max(self.capacity, other.capacity)
        self._count()

    # -- slots ---------------------------------------------------------------------------------------------------------

    def _make_room(self, queries: int) -> None:
        needed = self.top + queries
        if self.beams > 1 and needed > self._next_look:
            self._compact()
            needed = self.top + queries
            self._next_look = self.top + 8 * self.beams
        if needed > self.slots:
            most = needed + (self.capacity - self.longest) * self.beams
            self._allocate(min(2 * needed + 8 * self.beams, most))

    def _allocate(self, slots: int) -> None:
        """Room for ``slots`` in all that has slots."""
        more = slots - self.visible.shape[2]
        if more > 0:
            self.visible = F.pad(self.visible, (0, more))
            self.key_positions = F.pad(self.key_positions, (0, more))
            self._change_caches(lambda cache: F.pad(cache, (0, 0, 0, more)))
            self.slots = slots

    def _compact(self) -> None:
        """Moves the slots that somebody sees to the front, in their order, if most are dead."""
        live = self.visible[:, :, : self.top].any(1)  # [B, slots]
        counts = live.sum(1)
        size = int(counts.max()) if self.batch else 0
        if 2 * size > self.top:
            return
        order = live.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :size]
        self.visible = self.visible.gather(2, order[:, None].expand(-1, self.beams, -1))
        self.key_positions = self.key_positions.gather(1, order)
        self._change_caches(lambda cache: torch.take_along_dim(cache, order[:, None, :, None], dim=2))
        self.fill, self.slots = counts, size
        self._count()

    def _count(self) -> None:
        """What the host knows of the fills, read from the device: only where sentences leave, enter or move."""
        low, self.top = (int(self.fill.min()), int(self.fill.max())) if self.batch else (0, 0)
        self.longest = int(self.position.max()) if self.batch else 0
        self.even = low if low == self.top else None

    def _change_books(self, change: Callable[[Tensor], Tensor]) -> None:
        self.visible, self.key_positions = change(self.visible), change(self.key_positions)
        self.fill, self.position = change(self.fill), change(self.position)

    def _change_caches(self, change: Callable[[Tensor], Tensor]) -> None:
        for cache in self.caches:
            if cache.key is not None and cache.value is not None:
                cache.key, cache.value = change(cache.key), change(cache.value)

    def _layout_of_memory(self) -> Layout | None:
        if self.memory is None or self.memory_lengths is None:
            return None
        return Layout.cross(self.memory_lengths, self.memory[0][0].shape[2])


def _above(one: Tensor, other: Tensor) -> Tensor:
    """Two batches of keys or values, [B, G, S, K] and [B', G, S', K], as one; the shorter is padded with zeros."""
    size = max(one.shape[2], other.shape[2])
    return torch.cat([F.pad(part, (0, 0, 0, size - part.shape[2])) for part in (one, other)])


def _joined(one: Tensor | None, other: Tensor | None, batch: int, other_batch: int) -> Tensor | None:
    """The same where one side may not have been written yet."""
    if one is None and other is None:
        return None
    if one is None:
        assert other is not None
        one = other.new_zeros(batch, *other.shape[1:])
    if other is None:
        other = one.new_zeros(other_batch, *one.shape[1:])
    return _above(one, other)
