"""The state of a Transformer decoder between steps: keys and values, which reordering does not move (slots.py)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from regard.nn.layout import Layout
from regard.nn.rows import Rows
from regard.nn.slots import CacheShape, Slots, resized


class LayerCache:
    """Keys [B, G, slots, K] and values [B, G, slots, Kv] of one layer; ``slots`` says which a step writes.

    ``dtype`` is the type in which they are kept; None: that of the first keys.
    """

    def __init__(self, slots: Slots, shape: CacheShape, dtype: torch.dtype | None = None) -> None:
        self.slots, self.shape, self.dtype = slots, shape, dtype
        self.key: Tensor | None = None
        self.value: Tensor | None = None

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Writes key [B, G, Q, K], value [B, G, Q, Kv] → those of all slots that are read, [B, G, slots, K or Kv]."""
        slots, (batch, _, queries, _) = self.slots, key.shape
        keys, values = self.room(key)
        if slots.fresh:  # the cache was empty: the new keys and values are all there are
            keys[:, :, :queries], values[:, :, :queries] = key, value
            return key, value
        sentence = torch.arange(batch, device=key.device)[:, None]
        for kept, new in ((keys, key), (values, value)):
            kept[sentence, :, slots.new] = new.transpose(1, 2).to(kept.dtype)
        return keys[:, :, : slots.extent], values[:, :, : slots.extent]

    def room(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """The keys and values of all slots, allocated on the device of ``like`` where there are none yet."""
        if self.key is None or self.value is None:
            # Zeros, since a slot that no query sees is multiplied by a weight of 0, and 0 · NaN is NaN.
            self.key, self.value = (
                like.new_zeros(
                    (self.slots.batch, self.shape.groups, self.slots.count, width), dtype=self.dtype or like.dtype
                )
                for width in (self.shape.key, self.shape.value)
            )
        return self.key, self.value

    def change(self, change: Callable[[Tensor], Tensor]) -> None:
        """Applies ``change`` to keys and values, if there are any yet."""
        if self.key is not None and self.value is not None:
            self.key, self.value = change(self.key), change(self.value)

    def admit(self, other: LayerCache, rows: Rows) -> None:
        """Writes the keys and values of other sentences into their ``rows``."""
        assert other.key is not None and other.value is not None, "a state enters after its first step"
        key, value = self.room(other.key)
        self.key = rows.put_first(key, other.key, 2, other.slots.top)
        self.value = rows.put_first(value, other.value, 2, other.slots.top)


class KeyValueState:
    """The decoding state of a Transformer: tensors only, sentences on axis 0, changed in place on the object.

    ``capacity`` is how many tokens a hypothesis may have, its prompt included; ``shapes`` says what each layer caches.
    ``memory`` holds each layer's keys and values of the encoder's output, [B, G, S, K] and [B, G, S, Kv], once per
    sentence. ``dtype`` is that of cached keys and values; None: that in which they are computed.
    """

    def __init__(
        self,
        *,
        shapes: Sequence[CacheShape],
        batch: int,
        beams: int,
        capacity: int,
        device: torch.device,
        memory: Sequence[tuple[Tensor, Tensor]] | None = None,
        memory_lengths: Tensor | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.slots = Slots(batch, beams, capacity, device)
        self.caches = [LayerCache(self.slots, shape, dtype) for shape in shapes]
        self.memory = None if memory is None else list(memory)
        self.memory_lengths = memory_lengths
        self.refresh_memory_layout()

    @property
    def batch(self) -> int:
        """How many sentences there are."""
        return self.slots.batch

    @property
    def beams(self) -> int:
        """How many hypotheses each sentence has."""
        return self.slots.beams

    @property
    def capacity(self) -> int:
        """How many tokens a hypothesis may have, its prompt included."""
        return self.slots.capacity

    # -- one step ------------------------------------------------------------------------------------------------------

    def advance(self, queries: int, lengths: Tensor | None, extent: int | None = None) -> Layout:
        """Assigns slots to ``queries`` new tokens a sentence → which slots each query sees; see ``Slots.advance``."""
        self.slots.check(queries, lengths)
        self.make_room(queries)
        return self.slots.advance(queries, lengths, extent)

    def advanced(self, queries: int, lengths: Tensor | None) -> None:
        """Counts the tokens of ``advance``, once all layers have written theirs."""
        self.slots.advanced(queries, lengths)

    def make_room(self, queries: int) -> None:
        """Allocates slots, until each sentence has ``queries`` dead ones."""
        self._resize(self.slots.wanted(queries))

    def _resize(self, count: int) -> None:
        if count != self.slots.count:
            self.slots.resize(count)
            for cache in self.caches:
                cache.change(lambda x: resized(x, 2, count))

    def refresh_memory_layout(self) -> None:
        """Makes the layout of the memory again, from its lengths."""
        self.memory_layout: Layout | None = None
        if self.memory is not None and self.memory_lengths is not None:
            self.memory_layout = Layout.cross(self.memory_lengths, self.memory[0][0].shape[2])

    # -- a captured step (decoding/graphs.py) --------------------------------------------------------------------------

    def tensors(self) -> list[Tensor]:
        """All tensors that a step reads of earlier steps, in the order in which ``hold`` takes them."""
        slots = self.slots
        lengths = [] if self.memory_lengths is None else [self.memory_lengths]
        pairs = [*((cache.key, cache.value) for cache in self.caches), *(self.memory or ())]
        kept = [tensor for pair in pairs for tensor in pair if tensor is not None]
        return [slots.position, slots.visible, slots.key_positions, *lengths, *kept]

    def hold(self, tensors: Sequence[Tensor]) -> None:
        """Replaces the tensors that ``tensors`` lists by these; all layers must have keys and values."""
        left, slots = iter(tensors), self.slots
        slots.position, slots.visible, slots.key_positions = next(left), next(left), next(left)
        if self.memory_lengths is not None:
            self.memory_lengths = next(left)
        for cache in self.caches:
            cache.key, cache.value = next(left), next(left)
        if self.memory is not None:
            self.memory = [(next(left), next(left)) for _ in self.memory]

    def replayed(self) -> None:
        """Counts, on the host, a captured step that was replayed."""
        self.slots.replayed()

    # -- reordering, leaving, entering ---------------------------------------------------------------------------------

    def follow(self, parents: Tensor) -> None:
        """Hypothesis n goes on from hypothesis parents[b, n], parents [B, N]: no key and no value is moved."""
        self.slots.follow(parents)

    def keep(self, index: Tensor) -> None:
        """Keeps the chosen sentences, index [B'], and no slot after the last one that their hypotheses see."""
        self.slots.keep(index)
        for cache in self.caches:
            cache.change(lambda x: x.narrow(2, 0, self.slots.count).index_select(0, index))
        if self.memory is not None and self.memory_lengths is not None:
            self.memory_lengths = self.memory_lengths.index_select(0, index)
            size = int(self.memory_lengths.max()) if self.batch else 0
            self.memory = [
                (key[:, :, :size].index_select(0, index), value[:, :, :size].index_select(0, index))
                for key, value in self.memory
            ]
            self.refresh_memory_layout()

    def admit(self, other: KeyValueState, free: Tensor | None = None) -> None:
        """The sentences of another state take the ``free`` rows [F], of finished ones, and then new rows at the end.

        ``other`` has as many beams and layers, and is not to be used again. Only the entering sentences are copied,
        unless rows or slots have to be added.
        """
        if other.beams != self.beams or len(other.caches) != len(self.caches):
            sizes = (f"{len(state.caches)} layers and {state.beams} beams" for state in (other, self))
            raise ValueError("a state of {} cannot enter one of {}".format(*sizes))
        rows = Rows.of(other.batch, free, self.batch, self.slots.device)
        self._resize(max(self.slots.count, other.slots.top))
        for mine, theirs in zip(self.caches, other.caches, strict=True):
            mine.admit(theirs, rows)
        if self.memory is not None and other.memory is not None:
            self._admit_memory(other, free, rows)
        self.slots.admit(other.slots, free, rows)

    def _admit_memory(self, other: KeyValueState, free: Tensor | None, rows: Rows) -> None:
        assert self.memory is not None and self.memory_lengths is not None
        assert other.memory is not None and other.memory_lengths is not None
        if free is not None:
            # A row that stays free gets length 1, since attention to nothing would be a case of its own. The lengths
            # are copied, since the encoder's memory owns them.
            self.memory_lengths = self.memory_lengths.index_fill(0, free, 1)
        size = other.memory[0][0].shape[2]
        longest = max(int(self.memory_lengths.max()) if self.batch else 0, size)

        def joined(one: Tensor, two: Tensor) -> Tensor:
            # Batches begin with the longest sentences: their room is given up when all others are much shorter.
            one = one if longest <= one.shape[2] <= longest + longest // 3 else resized(one, 2, longest)
            return rows.put_first(one, two, 2, size)

        pairs = zip(self.memory, other.memory, strict=True)
        self.memory = [(joined(key, new_key), joined(value, new_value)) for (key, value), (new_key, new_value) in pairs]
        self.memory_lengths = rows.put(self.memory_lengths, other.memory_lengths)
        self.refresh_memory_layout()
