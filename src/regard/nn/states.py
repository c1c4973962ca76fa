"""What a Transformer decoder remembers from step to step: keys and values, written once and never moved (slots.py)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from regard.nn.layout import Layout
from regard.nn.rows import Rows
from regard.nn.slots import CacheShape, Slots, resized


class LayerCache:
    """Keys [B, G, slots, K] and values [B, G, slots, Kv] of one layer, written into the new ones of its ``slots``.

    They are kept in ``dtype``, or if there is none in the type in which they come.
    """

    def __init__(self, slots: Slots, shape: CacheShape, dtype: torch.dtype | None = None) -> None:
        self.slots, self.shape, self.dtype = slots, shape, dtype
        self.key: Tensor | None = None
        self.value: Tensor | None = None

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Writes key [B, G, Q, K], value [B, G, Q, Kv] → all that may be seen, [B, G, slots read, K] and [… Kv]."""
        slots, (batch, _, queries, _) = self.slots, key.shape
        keys, values = self.room(key)
        if slots.fresh:  # nothing stood there before: what was just made is all there is
            keys[:, :, :queries], values[:, :, :queries] = key, value
            return key, value
        sentence = torch.arange(batch, device=key.device)[:, None]
        for kept, new in ((keys, key), (values, value)):
            kept[sentence, :, slots.new] = new.transpose(1, 2).to(kept.dtype)
        return keys[:, :, : slots.extent], values[:, :, : slots.extent]

    def room(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """All slots of keys and values, where the new ones are still to be written; on the device of ``like``."""
        if self.key is None or self.value is None:
            # Zeros, for a slot that is not visible still meets a weight of 0, and 0 · NaN is NaN.
            self.key, self.value = (
                like.new_zeros(
                    (self.slots.batch, self.shape.groups, self.slots.count, width), dtype=self.dtype or like.dtype
                )
                for width in (self.shape.key, self.shape.value)
            )
        return self.key, self.value

    def change(self, change: Callable[[Tensor], Tensor]) -> None:
        """The same change to keys and values, if there are any yet."""
        if self.key is not None and self.value is not None:
            self.key, self.value = change(self.key), change(self.value)

    def admit(self, other: LayerCache, rows: Rows) -> None:
        """The keys and values of other sentences, in their ``rows``."""
        assert other.key is not None and other.value is not None, "prompts come before entering"
        key, value = self.room(other.key)
        self.key = rows.put_first(key, other.key, 2, other.slots.top)
        self.value = rows.put_first(value, other.value, 2, other.slots.top)


class KeyValueState:
    """What a Transformer decoder remembers: tensors only, sentences on axis 0, all changes in place on the object.

    ``capacity`` is how many tokens a hypothesis may have, its prompt included; ``shapes`` says what each layer caches.
    ``memory`` holds each layer's keys and values of the encoder's output, [B, G, S, K] and [B, G, S, Kv], once per
    sentence. New keys and values are kept in ``dtype``, or if there is none in the type in which they come.
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
        """Gives ``queries`` new tokens a sentence their slots → who sees whom; see ``Slots.advance``."""
        self.slots.check(queries, lengths)
        self.make_room(queries)
        return self.slots.advance(queries, lengths, extent)

    def advanced(self, queries: int, lengths: Tensor | None) -> None:
        """Counts the tokens of ``advance``, once all layers have written theirs."""
        self.slots.advanced(queries, lengths)

    def make_room(self, queries: int) -> None:
        """So many dead slots for each sentence."""
        self._resize(self.slots.wanted(queries))

    def _resize(self, count: int) -> None:
        if count != self.slots.count:
            self.slots.resize(count)
            for cache in self.caches:
                cache.change(lambda x: resized(x, 2, count))

    def refresh_memory_layout(self) -> None:
        """Makes the mask of the memory anew, of its lengths."""
        self.memory_layout: Layout | None = None
        if self.memory is not None and self.memory_lengths is not None:
            self.memory_layout = Layout.cross(self.memory_lengths, self.memory[0][0].shape[2])

    # -- a step that was recorded --------------------------------------------------------------------------------------

    def tensors(self) -> list[Tensor]:
        """All that a step reads of the steps before, in an order of its own."""
        slots = self.slots
        lengths = [] if self.memory_lengths is None else [self.memory_lengths]
        pairs = [*((cache.key, cache.value) for cache in self.caches), *(self.memory or ())]
        kept = [tensor for pair in pairs for tensor in pair if tensor is not None]
        return [slots.position, slots.visible, slots.key_positions, *lengths, *kept]

    def hold(self, tensors: Sequence[Tensor]) -> None:
        """Takes such tensors as ``tensors`` gives, once all layers have keys and values."""
        left, slots = iter(tensors), self.slots
        slots.position, slots.visible, slots.key_positions = next(left), next(left), next(left)
        if self.memory_lengths is not None:
            self.memory_lengths = next(left)
        for cache in self.caches:
            cache.key, cache.value = next(left), next(left)
        if self.memory is not None:
            self.memory = [(next(left), next(left)) for _ in self.memory]

    def passed(self) -> None:
        """Counts, on the host, a step that was run again."""
        self.slots.repeated()

    # -- reordering, leaving, entering ---------------------------------------------------------------------------------

    def follow(self, parents: Tensor) -> None:
        """Hypothesis n goes on from hypothesis parents[b, n], parents [B, N]: no key and no value is moved."""
        self.slots.follow(parents)

    def keep(self, index: Tensor) -> None:
        """Keeps the chosen sentences, index [B'], and no slot behind the last that a hypothesis of theirs sees."""
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
        """The sentences of another state take the ``free`` rows [F], of those who have left, and then come behind.

        It has as many beams and layers, and is not to be used again. Nothing is copied but what comes, unless some come
        behind or need more slots than there are.
        """
        if other.beams != self.beams or len(other.caches) != len(self.caches):
            raise ValueError(f"a state of {other.beams} beams cannot enter one of {self.beams}")
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
            # A place that stays empty is 1 long: to see nothing would be a case of its own. The encoder's lengths are
            # not ours to change.
            self.memory_lengths = self.memory_lengths.index_fill(0, free, 1)
        size = other.memory[0][0].shape[2]
        longest = max(int(self.memory_lengths.max()) if self.batch else 0, size)

        def joined(one: Tensor, two: Tensor) -> Tensor:
            # Those of the longest sentences, which come first, are not kept for all that follow.
            one = one if longest <= one.shape[2] <= longest + longest // 3 else resized(one, 2, longest)
            return rows.put_first(one, two, 2, size)

        pairs = zip(self.memory, other.memory, strict=True)
        self.memory = [(joined(key, its), joined(value, too)) for (key, value), (its, too) in pairs]
        self.memory_lengths = rows.put(self.memory_lengths, other.memory_lengths)
        self.refresh_memory_layout()
