"""The key/value cache of decoding: slots that are written once and never moved when beams reorder.

Each sentence has a row of slots. A prompt takes one slot a token, for all its hypotheses together; a step takes one
slot a hypothesis. Which slots hypothesis n has among its ancestors is said by ``visible`` [B, N, slots], and that is
all that reordering touches. A slot that nobody sees (of a hypothesis without descendants, or of padding) is dead, and
is the next to be written: a sentence takes its first dead ones, so that its slots depend on nobody else's.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from regard.nn.layout import Layout
from regard.nn.padding import everything_is_real, real
from regard.nn.rows import Places

# Steps for which slots are allocated ahead. Between two heads' keys lie their unused slots: with more than a few of
# them PyTorch's operators take twice as long to read, since what the processor fetches ahead is of no use.
AHEAD = 4
FIXED_AHEAD = 32  # the same where all steps are alike, until slots are added


class LayerCache:
    """Keys and values of one layer, [B, G, slots, K], written where the state says."""

    def __init__(self, state: KeyValueState) -> None:
        self.state = weakref.proxy(state)  # which holds this: so that both go at once when nobody wants them any more
        self.key: Tensor | None = None
        self.value: Tensor | None = None

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Writes key, value [B, G, Q, K] into the state's new slots → all that may be seen, [B, G, slots read, K]."""
        state, (batch, groups, queries, width) = self.state, key.shape
        keys, values = self.room(batch, groups, width, key)
        if state.fresh:  # nothing stood there before: what was just made is all there is
            keys[:, :, :queries], values[:, :, :queries] = key, value
            return key, value
        sentence = torch.arange(batch, device=key.device)[:, None]
        for kept, new in ((keys, key), (values, value)):
            kept[sentence, :, state.new] = new.transpose(1, 2).to(kept.dtype)
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
        self.refresh_memory_layout()
        self.position = torch.zeros(batch, dtype=torch.int64, device=device)  # [B] tokens that each hypothesis has
        self.visible = torch.zeros(batch, beams, 0, dtype=torch.bool, device=device)  # [B, N, slots]
        self.key_positions = torch.zeros(batch, 0, dtype=torch.int64, device=device)  # [B, slots]
        # Known on the host, so that a step needs no synchronisation:
        self.slots = 0  # slots allocated
        self.used = 0  # no sentence has more live ones
        self.top = 0  # slots that have been written, at most
        self.longest = 0  # tokens of the longest hypothesis
        self.open = True  # every slot that is read is seen by every hypothesis: no mask is needed
        self.fixed = False  # all slots are read, by a mask: steps are alike and can be recorded (decoding/graphs.py)
        # Of the step under way:
        self.new = torch.zeros(batch, 0, dtype=torch.int64, device=device)  # [B, Q] the slots that are written
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
        self.make_room(queries)
        self.fresh = self.top == 0 and lengths is not None
        self.new = self._dead(queries)
        self.top = max(self.top, self.used + queries)
        self.extent = self.slots if self.fixed else self.top if extent is None else extent
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
        visible, places = self.visible[:, :, : self.extent], self.key_positions[:, : self.extent]
        if prompt:  # its tokens see what all hypotheses see, and one another in order
            visible = visible[:, :1] & (places[:, None, :] <= positions[:, :, None])
        elif self.open and self.extent == self.top and not self.fixed:
            return Layout(positions=positions, key_positions=places)
        return Layout.cached(visible, positions, places)

    def advanced(self, queries: int, lengths: Tensor | None) -> None:
        """Counts the tokens of ``advance``, once all layers have written theirs."""
        self.fresh = False
        self.used += queries
        self.position += 1 if lengths is None else lengths
        self.longest += 1 if lengths is None else queries

    # -- a step that was recorded --------------------------------------------------------------------------------------

    def tensors(self) -> list[Tensor]:
        """All that a step reads of the steps before, in an order of its own."""
        lengths = [] if self.memory_lengths is None else [self.memory_lengths]
        pairs = [*((cache.key, cache.value) for cache in self.caches), *(self.memory or ())]
        kept = [tensor for pair in pairs for tensor in pair if tensor is not None]
        return [self.position, self.visible, self.key_positions, *lengths, *kept]

    def hold(self, tensors: Sequence[Tensor]) -> None:
        """The way back of ``tensors``, once all layers have keys and values."""
        left = iter(tensors)
        self.position, self.visible, self.key_positions = next(left), next(left), next(left)
        if self.memory_lengths is not None:
            self.memory_lengths = next(left)
        for cache in self.caches:
            cache.key, cache.value = next(left), next(left)
        if self.memory is not None:
            self.memory = [(next(left), next(left)) for _ in self.memory]

    def passed(self) -> None:
        """Counts, on the host, a step that was run again."""
        self.top = max(self.top, self.used + self.beams)
        self.used += self.beams
        self.longest += 1

    # -- reordering, leaving, entering ---------------------------------------------------------------------------------

    def follow(self, parents: Tensor) -> None:
        """Hypothesis n goes on from hypothesis parents[b, n], parents [B, N]: only ``visible`` changes."""
        index = parents[:, :, None].expand(-1, -1, self.visible.shape[2])
        self.visible = self.visible.gather(1, index)

    def keep(self, index: Tensor) -> None:
        """Keeps the chosen sentences, index [B'], and drops the slots behind the last that one of them sees."""
        self.batch = len(index)
        self.position = self.position.index_select(0, index)
        seen = self.visible.index_select(0, index).any(1)  # [B', slots]
        self.slots = self.top = int(seen.any(0).nonzero().amax()) + 1 if seen.any() else 0
        self._change_slots(lambda x, axis: x.narrow(axis, 0, self.slots).index_select(0, index))
        self.open = bool(self.visible.all())
        if self.memory is not None and self.memory_lengths is not None:
            self.memory_lengths = self.memory_lengths.index_select(0, index)
            size = int(self.memory_lengths.max()) if self.batch else 0
            self.memory = [
                (key[:, :, :size].index_select(0, index), value[:, :, :size].index_select(0, index))
                for key, value in self.memory
            ]
            self.refresh_memory_layout()
        self._count()

    def admit(self, other: KeyValueState, free: Tensor | None = None) -> None:
        """The sentences of another state take the ``free`` places [F], of those who have left, and then come behind.

        It has as many beams and layers, and is not to be used again. Nothing is copied but what comes, unless some come
        behind or need more slots than there are.
        """
        if other.beams != self.beams or len(other.caches) != len(self.caches):
            raise ValueError(f"a state of {other.beams} beams cannot enter one of {self.beams}")
        places = Places.of(other.batch, free, self.batch, self.device)
        alone = places.batch == other.batch
        self.open = other.open and (alone or (self.open and free is None)) and self.top in (0, other.top)
        if other.top > self.slots:
            self._change_slots(lambda x, axis: _sized(x, axis, other.top))
            self.slots = other.top
        self.top = max(self.top, other.top)
        if free is not None:  # whoever may be left there holds nothing
            self.visible.index_fill_(0, free, False)
            self.position.index_fill_(0, free, 0)
            if self.memory_lengths is not None:
                # One that sees nothing would be a case of its own. The encoder's lengths are not ours to change.
                self.memory_lengths = self.memory_lengths.index_fill(0, free, 1)

        def entered(mine: Tensor, theirs: Tensor, axis: int, size: int) -> Tensor:
            """The first ``size`` of theirs on an axis, over the first of mine."""
            mine = places.room(mine)
            mine.narrow(axis, 0, size).index_copy_(0, places.index, theirs.narrow(axis, 0, size))
            return mine

        for mine, theirs in zip(self.caches, other.caches, strict=True):
            assert theirs.key is not None and theirs.value is not None, "prompts come before entering"
            _, groups, _, width = theirs.key.shape
            key, value = mine.room(self.batch, groups, width, theirs.key)
            mine.key, mine.value = (
                entered(one, two, 2, other.top) for one, two in ((key, theirs.key), (value, theirs.value))
            )
        self.visible = entered(self.visible, other.visible, 2, other.top)
        self.key_positions = entered(self.key_positions, other.key_positions, 1, other.top)
        self.position = places.put(self.position, other.position)
        if self.memory is not None and other.memory is not None:
            assert self.memory_lengths is not None and other.memory_lengths is not None
            size = other.memory[0][0].shape[2]
            longest = max(int(self.memory_lengths.max()) if self.batch else 0, size)

            def joined(one: Tensor, two: Tensor) -> Tensor:
                # Those of the longest sentences, which come first, are not kept for all that follow.
                one = one if longest <= one.shape[2] <= longest + longest // 3 else _sized(one, 2, longest)
                return entered(one, two, 2, size)

            pairs = zip(self.memory, other.memory, strict=True)
            self.memory = [(joined(key, its), joined(value, too)) for (key, value), (its, too) in pairs]
            self.memory_lengths = places.put(self.memory_lengths, other.memory_lengths)
            self.refresh_memory_layout()
        self.batch = places.batch
        self.capacity = max(self.capacity, other.capacity)
        self._count()

    # -- slots ---------------------------------------------------------------------------------------------------------

    def make_room(self, queries: int) -> None:
        """So many dead slots for each sentence."""
        if self.used + queries > self.slots and self.beams > 1:
            self.used = self._most_live()
        needed = self.used + queries
        if needed > self.slots:
            most = needed + (self.capacity - self.longest) * self.beams
            # The longer the rows, the less a gap costs and a copy gains.
            ahead = FIXED_AHEAD * self.beams if self.fixed else max(AHEAD * self.beams, needed // 8)
            self.slots = min(needed + ahead, most)
            self._change_slots(lambda x, axis: _sized(x, axis, self.slots))

    def _dead(self, count: int) -> Tensor:
        """Each sentence's first ``count`` slots that nobody sees, [B, count]."""
        if self.top == 0:
            return torch.arange(count, device=self.device).expand(self.batch, count)
        if self.beams == 1:  # nobody dies
            return self.position[:, None] + torch.arange(count, device=self.device)
        return self.visible.any(1).to(torch.uint8).argsort(dim=1, stable=True)[:, :count]

    def _most_live(self) -> int:
        return int(self.visible.any(1).sum(1).max()) if self.visible.numel() else 0

    def _change_slots(self, change: Callable[[Tensor, int], Tensor]) -> None:
        """Everything that has slots, each with the axis on which it has them."""
        self.visible, self.key_positions = change(self.visible, 2), change(self.key_positions, 1)
        for cache in self.caches:
            if cache.key is not None and cache.value is not None:
                cache.key, cache.value = change(cache.key, 2), change(cache.value, 2)

    def _count(self) -> None:
        """What the host knows of the lengths, read from the device: only where sentences leave or enter."""
        self.longest = int(self.position.max()) if self.batch else 0
        self.used = self.longest if self.beams == 1 else self._most_live()

    def refresh_memory_layout(self) -> None:
        """Makes the mask of the memory anew, of its lengths."""
        self.memory_layout: Layout | None = None
        if self.memory is not None and self.memory_lengths is not None:
            self.memory_layout = Layout.cross(self.memory_lengths, self.memory[0][0].shape[2])


def _sized(x: Tensor, axis: int, size: int) -> Tensor:
    """A copy that is ``size`` long on an axis: cut off, or with zeros at its end."""
    kept = min(size, x.shape[axis])
    room = x.new_empty(*x.shape[:axis], size, *x.shape[axis + 1 :])
    room.narrow(axis, 0, kept).copy_(x.narrow(axis, 0, kept))
    room.narrow(axis, kept, size - kept).zero_()  # nothing is written twice
    return room
