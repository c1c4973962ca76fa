"""The key/value cache of decoding: slots that are written once and never moved when beams reorder.

Each sentence has one row of slots, and all rows are filled to the same place: ``top``, which the host knows. A prompt
fills one slot a token, for all its hypotheses together; a step fills one slot a hypothesis. Which slots hypothesis n
has among its ancestors is said by ``visible`` [B, N, slots], and that is all that reordering touches; slots of padding,
and those before a sentence that came later, are seen by nobody. Dead slots are compacted away when they are most.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from regard.nn.layout import Layout, everything_is_real, real

# Steps for which slots are allocated ahead. Between two heads' keys lie their unused slots: with more than a few of
# them reading takes twice as long, since what the processor fetches ahead is of no use.
AHEAD = 4


class LayerCache:
    """Keys and values of one layer, [B, G, slots, K], written where the state says."""

    def __init__(self, state: KeyValueState) -> None:
        self.state = weakref.proxy(state)  # which holds this: so that both go at once when nobody wants them any more
        self.key: Tensor | None = None
        self.value: Tensor | None = None

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Writes key, value [B, G, Q, K] into the state's new slots → all that may be seen, [B, G, slots read, K]."""
        state, (batch, groups, queries, width) = self.state, key.shape
        new = slice(state.top, state.top + queries)
        keys, values = self.room(batch, groups, width, key)
        keys[:, :, new], values[:, :, new] = key, value
        if state.fresh:  # nothing stood there before: what was just made is all there is
            return key, value
        return keys[:, :, : state.extent], values[:, :, : state.extent]

    def room(self, batch: int, groups: int, width: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """All slots of keys and values, [B, G, slots, K], where the state's new ones are still to be written.

        They are of the state's type, or if it has none of that of ``like``.
        """
        if self.key is None or self.value is None:
            # Zeros, for a slot that is not visible still meets a weight of 0, and 0 · NaN is NaN.
            shape, dtype = (batch, groups, self.state.slots, width), self.state.dtype or like.dtype
            self.key, self.value = like.new_zeros(shape, dtype=dtype), like.new_zeros(shape, dtype=dtype)
        return self.key, self.value


class KeyValueState:
    """What a Transformer decoder remembers: tensors only, sentences on axis 0, all changes in place on the object.

    ``capacity`` is how many tokens a hypothesis may have, its prompt included. ``memory`` holds each layer's keys and
    values of the encoder's output, [B, G, S, K], once per sentence. New ones are kept in ``dtype``, or if there is
    none in the type in which they come.
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
        dtype: torch.dtype | None = None,
    ) -> None:
        self.dtype = dtype
        self.batch, self.beams, self.capacity = batch, beams, capacity
        self.device = device
        self.caches = [LayerCache(self) for _ in range(layers)]
        self.memory = None if memory is None else list(memory)
        self.memory_lengths = memory_lengths
        self.memory_layout = self._layout_of_memory()
        self.position = torch.zeros(batch, dtype=torch.int64, device=device)  # [B] tokens that each hypothesis has
        self.visible = torch.zeros(batch, beams, 0, dtype=torch.bool, device=device)  # [B, N, slots]
        self.key_positions = torch.zeros(batch, 0, dtype=torch.int64, device=device)  # [B, slots]
        # Known on the host, so that a step needs no synchronisation:
        self.slots = 0  # slots allocated
        self.top = 0  # slots in use: the next one is written there
        self.longest = 0  # tokens of the longest hypothesis
        self.open = True  # every slot in use is seen by every hypothesis: no mask is needed
        self._next_look = 16 * beams  # how many slots in use make it look for dead ones
        # Of the step under way:
        self.fresh = False
        self.extent = 0

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
        new = slice(self.top, self.top + queries)
        self.extent = new.stop if extent is None else extent
        if lengths is None:
            positions = self.position[:, None].expand(-1, queries)
            self.visible[:, :, new] = torch.eye(queries, dtype=torch.bool, device=self.device)
            self.open = self.open and queries == 1
        else:
            positions = self.position[:, None] + torch.arange(queries, device=self.device)
            self.visible[:, :, new] = real(lengths, queries)[:, None, :]
            self.open = self.open and everything_is_real(lengths, queries)
        self.key_positions[:, new] = positions
        return self._layout(positions, prompt=lengths is not None)

    def _layout(self, positions: Tensor, prompt: bool) -> Layout:
        if self.fresh:
            return Layout(causal=True)
        visible, places = self.visible[:, :, : self.extent], self.key_positions[:, : self.extent]
        if prompt:  # its tokens see what all hypotheses see, and one another in order
            visible = visible[:, :1] & (places[:, None, :] <= positions[:, :, None])
        elif self.open and self.extent == self.top + 1:
            return Layout(positions=positions, key_positions=places)
        return Layout.cached(visible, positions, places)

    def advanced(self, queries: int, lengths: Tensor | None) -> None:
        """Counts the tokens of ``advance``, once all layers have written theirs."""
        self.fresh = False
        self.top += queries
        self.position += 1 if lengths is None else lengths
        self.longest += 1 if lengths is None else queries

    # -- reordering, leaving, entering ---------------------------------------------------------------------------------

    def follow(self, parents: Tensor) -> None:
        """Hypothesis n goes on from hypothesis parents[b, n], parents [B, N]: only ``visible`` changes."""
        index = parents[:, :, None].expand(-1, -1, self.visible.shape[2])
        self.visible = self.visible.gather(1, index)

    def keep(self, index: Tensor) -> None:
        """Keeps the chosen sentences, index [B'], and drops the slots before the first that one of them sees."""
        self.batch = len(index)
        self.position = self.position.index_select(0, index)
        seen = self.visible.index_select(0, index)[:, :, : self.top]
        first = int(seen.any(1).any(0).to(torch.uint8).argmax()) if seen.numel() else self.top
        self._change_slots(lambda x, slots: x.narrow(slots, first, self.slots - first).index_select(0, index))
        self.top, self.slots = self.top - first, self.slots - first
        self.open = bool(seen[:, :, first:].all())
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
        """Appends the sentences of another state with as many beams and layers; ``other`` is not to be used again.

        Their slots end where these do, so that the next token of all has the same slot.
        """
        if other.beams != self.beams or len(other.caches) != len(self.caches):
            raise ValueError(f"a state of {other.beams} beams cannot enter one of {self.beams}")
        self.open = self.open and other.open and (self.top == other.top or not self.batch)
        top = max(self.top, other.top)
        slots = top + max(self.slots - self.top, other.slots - other.top)

        def joined(one: Tensor, two: Tensor, axis: int) -> Tensor:
            return _above((one, top - self.top, self.top), (two, top - other.top, other.top), axis, slots)

        for mine, theirs in zip(self.caches, other.caches, strict=True):
            if mine.key is None or mine.value is None:  # never written: nobody is here yet
                mine.key, mine.value = (x if x is None else x[:0] for x in (theirs.key, theirs.value))
            if mine.key is not None and mine.value is not None:
                assert theirs.key is not None and theirs.value is not None, "prompts come before entering"
                mine.key, mine.value = joined(mine.key, theirs.key, 2), joined(mine.value, theirs.value, 2)
        self.visible = joined(self.visible, other.visible, 2)
        self.key_positions = joined(self.key_positions, other.key_positions, 1)
        self.position = torch.cat([self.position, other.position])
        if self.memory is not None and other.memory is not None:
            assert self.memory_lengths is not None and other.memory_lengths is not None

            def both(one: Tensor, two: Tensor) -> Tensor:
                sizes = one.shape[2], two.shape[2]
                return _above((one, 0, sizes[0]), (two, 0, sizes[1]), 2, max(sizes))

            pairs = zip(self.memory, other.memory, strict=True)
            self.memory = [(both(a, c), both(b, d)) for (a, b), (c, d) in pairs]
            self.memory_lengths = torch.cat([self.memory_lengths, other.memory_lengths])
            self.memory_layout = self._layout_of_memory()
        self.batch += other.batch
        self.top, self.slots = top, slots
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
            ahead = max(AHEAD * self.beams, needed // 8)  # the longer the rows, the less a gap costs and a copy gains
            more = min(needed + ahead, most) - self.slots
            self._change_slots(lambda x, slots: _wider(x, slots, more))
            self.slots += more

    def _compact(self) -> None:
        """Moves the slots that somebody sees to the end of those in use, in their order, if most are dead."""
        live = self.visible[:, :, : self.top].any(1)  # [B, slots]
        size = int(live.sum(1).max()) if self.batch else 0
        if 2 * size > self.top:
            return
        order = live.to(torch.uint8).argsort(dim=1, stable=True)[:, self.top - size :]

        def chosen(x: Tensor, slots: int) -> Tensor:
            index = order.view(len(order), *(1,) * (slots - 1), size, *(1,) * (x.dim() - 1 - slots))
            return x.gather(slots, index.expand(*x.shape[:slots], size, *x.shape[slots + 1 :]))

        self._change_slots(chosen)
        self.top = self.slots = size

    def _change_slots(self, change: Callable[[Tensor, int], Tensor]) -> None:
        """Everything that has slots, each with the axis on which it has them."""
        self.visible, self.key_positions = change(self.visible, 2), change(self.key_positions, 1)
        for cache in self.caches:
            if cache.key is not None and cache.value is not None:
                cache.key, cache.value = change(cache.key, 2), change(cache.value, 2)

    def _count(self) -> None:
        """What the host knows of the lengths, read from the device: only where sentences leave or enter."""
        self.longest = int(self.position.max()) if self.batch else 0

    def _layout_of_memory(self) -> Layout | None:
        if self.memory is None or self.memory_lengths is None:
            return None
        return Layout.cross(self.memory_lengths, self.memory[0][0].shape[2])


def _wider(x: Tensor, axis: int, more: int) -> Tensor:
    """With as many zeros at the end of an axis."""
    size = x.shape[axis]
    wide = x.new_empty(*x.shape[:axis], size + more, *x.shape[axis + 1 :])
    _fill(wide, x, 0, size, axis)
    return wide


def _above(one: tuple[Tensor, int, int], other: tuple[Tensor, int, int], axis: int, size: int) -> Tensor:
    """Two batches as one, ``size`` wide on an axis: of (x, start, length), x's first ``length`` stand at ``start``."""
    shape = list(one[0].shape)
    shape[0], shape[axis] = len(one[0]) + len(other[0]), size
    both = one[0].new_empty(shape)
    for part, rows in zip((one, other), torch.split(both, [len(one[0]), len(other[0])]), strict=True):
        _fill(rows, *part, axis)
    return both


def _fill(room: Tensor, x: Tensor, start: int, length: int, axis: int) -> None:
    """Along an axis: zeros, from ``start`` on the first ``length`` of x, and zeros again. Nothing is written twice."""
    end = start + length
    room.narrow(axis, 0, start).zero_()
    room.narrow(axis, start, length).copy_(x.narrow(axis, 0, length))
    room.narrow(axis, end, room.shape[axis] - end).zero_()
