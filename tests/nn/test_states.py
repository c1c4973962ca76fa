"""Cached decoding gives what the whole prefixes give, whatever beams and sentences do in between."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from regard.models.bodies import EncoderDecoder
from regard.models.transformer import Transformer
from regard.nn.multihead import Attention
from regard.nn.positions import Learned, NoPositions, Positions, RelativeBias, Rotary, Sinusoidal
from regard.nn.sequences import Memory, Tokens
from regard.nn.slots import CacheShape
from regard.nn.states import KeyValueState

V = 23
KINDS: list[Positions] = [Sinusoidal(), Learned(64), Rotary(), RelativeBias(8, 16), NoPositions()]


def model_with(positions: Positions) -> EncoderDecoder:
    options = Transformer(
        width=16, heads=2, feedforward=32, encoder_layers=2, decoder_layers=2, positions=positions, order="pre"
    )
    model = options.build(V).double().eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias.weight"):  # the relative bias starts at 0, and would show nothing
            torch.nn.init.normal_(parameter)
    return model


def sources(batch: int) -> Tokens:
    lengths = torch.randint(1, 7, (batch,))
    return Tokens(torch.randint(4, V, (batch, int(lengths.max()))), lengths)


class Oracle:
    """Every hypothesis as a list of ids; hidden states come from the whole prefix, one hypothesis at a time."""

    def __init__(self, model: EncoderDecoder, memory: Memory, beams: int) -> None:
        self.model, self.memory = model, memory
        self.ids: list[list[list[int]]] = [[[] for _ in range(beams)] for _ in memory.lengths]

    def extend(self, tokens: Tensor, lengths: Tensor | None) -> None:
        for b, sentence in enumerate(self.ids):
            for n, hypothesis in enumerate(sentence):
                hypothesis += [int(tokens[b, n])] if lengths is None else tokens[b, : int(lengths[b])].tolist()

    def follow(self, parents: Tensor) -> None:
        self.ids = [[list(old[p]) for p in chosen] for old, chosen in zip(self.ids, parents.tolist(), strict=True)]

    def keep(self, index: Tensor) -> None:
        self.ids = [self.ids[i] for i in index.tolist()]
        self.memory = self.memory.keep(index)

    def admit(self, other: Oracle, free: list[int]) -> None:
        """Sentences enter the ``free`` rows first, then new rows; a free row that is left over keeps its sentence."""
        size = max(self.memory.hidden.shape[1], other.memory.hidden.shape[1])
        mine, theirs = (
            list(torch.nn.functional.pad(m.hidden, (0, 0, 0, size - m.hidden.shape[1])))
            for m in (self.memory, other.memory)
        )
        lengths, new_lengths = self.memory.lengths.tolist(), other.memory.lengths.tolist()
        for b, ids in enumerate(other.ids):
            if b < len(free):
                self.ids[free[b]], mine[free[b]], lengths[free[b]] = ids, theirs[b], new_lengths[b]
            else:
                self.ids.append(ids)
                mine.append(theirs[b])
                lengths.append(new_lengths[b])
        self.memory = Memory(torch.stack(mine), torch.tensor(lengths))

    def last(self) -> Tensor:
        """The hidden state of each hypothesis' last token, [B, N, D]."""
        rows = []
        for b, sentence in enumerate(self.ids):
            length = self.memory.lengths[b : b + 1]
            memory = Memory(self.memory.hidden[b : b + 1, : int(length)], length)
            for hypothesis in sentence:
                ids = torch.tensor([hypothesis])
                out = self.model(Tokens(ids, torch.tensor([len(hypothesis)])), memory)
                rows.append(out.hidden[0, -1])
        return torch.stack(rows).view(len(self.ids), -1, rows[0].shape[-1])


def beams_differ(shape: tuple[int, int], beams: int) -> Tensor:
    return torch.randint(0, beams, shape)


@pytest.mark.parametrize("positions", KINDS, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("beams", [1, 3])
@torch.inference_mode()
def test_any_history_equals_the_whole_prefix(positions: Positions, beams: int) -> None:
    """Ragged prompts, reordering, leaving, entering and compaction, in an order drawn at random."""
    for seed in range(2):
        torch.manual_seed(seed)
        model = model_with(positions)

        def begin(batch: int, model: EncoderDecoder = model) -> tuple[Oracle, KeyValueState]:
            memory = model.encode(sources(batch))
            oracle, state = Oracle(model, memory, beams), model.start(memory, beams, capacity=48)
            lengths = torch.randint(1, 4, (batch,))
            prompt = torch.randint(1, V, (batch, int(lengths.max())))
            hidden = model.step(prompt, state, lengths)
            oracle.extend(prompt, lengths)
            for row, length in enumerate(lengths.tolist()):
                torch.testing.assert_close(hidden[row, length - 1], oracle.last()[row, 0], rtol=1e-9, atol=1e-9)
            return oracle, state

        oracle, state = begin(3)
        for turn in range(14):
            tokens = torch.randint(1, V, (state.batch, beams))
            hidden = model.step(tokens, state)
            oracle.extend(tokens, None)
            torch.testing.assert_close(hidden, oracle.last(), rtol=1e-9, atol=1e-9)
            parents = beams_differ((state.batch, beams), beams)
            state.follow(parents)
            oracle.follow(parents)
            if turn % 5 == 2:
                index = torch.randperm(state.batch)[: max(1, state.batch - 1)]
                state.keep(index)
                oracle.keep(index)
            if turn % 5 == 4:
                new_oracle, new_state = begin(2)
                free = torch.randperm(state.batch)[: turn % 4]  # 2 sentences enter 3, 1 or no free rows
                state.admit(new_state, free if len(free) else None)
                oracle.admit(new_oracle, free.tolist())
            assert state.batch == len(oracle.ids)


@torch.inference_mode()
def test_a_second_prompt_sees_the_first() -> None:
    torch.manual_seed(0)
    model = model_with(Sinusoidal())
    memory = model.encode(sources(2))
    state, oracle = model.start(memory, 2, 20), Oracle(model, memory, 2)
    for lengths in (torch.tensor([3, 1]), torch.tensor([2, 4])):
        prompt = torch.randint(1, V, (2, int(lengths.max())))
        hidden = model.step(prompt, state, lengths)
        oracle.extend(prompt, lengths)
        last = hidden.gather(1, (lengths - 1)[:, None, None].expand(-1, 1, hidden.shape[2]))
        torch.testing.assert_close(last.expand(-1, 2, -1), oracle.last(), rtol=1e-9, atol=1e-9)


@torch.inference_mode()
def test_dead_slots_are_written_again_and_live_ones_do_not_move() -> None:
    torch.manual_seed(0)
    model, beams = model_with(Sinusoidal()), 4
    state = model.start(model.encode(sources(2)), beams, capacity=200)
    model.step(torch.ones(2, 1, dtype=torch.int64), state, torch.ones(2, dtype=torch.int64))
    for number in range(100):
        model.step(torch.randint(1, V, (2, beams)), state)
        state.follow(torch.zeros(2, beams, dtype=torch.int64))  # one ancestor a step: 3 of 4 slots die
        live = state.slots.visible.any(1)
        assert (live.sum(1) == number + 2).all(), "a token is seen by nobody"
        # Room for those of the next step, and ahead of it at most an eighth, or four steps.
        assert state.slots.count <= (number + 2 + beams) * 9 / 8 + 4 * beams + 1, "dead slots were kept"


@torch.inference_mode()
def test_leaving_altogether_and_entering_an_empty_state() -> None:
    torch.manual_seed(0)
    model = model_with(Sinusoidal())
    state = model.start(model.encode(sources(2)), 2, 20)
    one = torch.ones(2, dtype=torch.int64)
    model.step(one[:, None], state, one)
    state.keep(torch.zeros(0, dtype=torch.int64))
    assert state.batch == 0
    memory = model.encode(sources(2))
    other, oracle = model.start(memory, 2, 20), Oracle(model, memory, 2)
    model.step(one[:, None], other, one)
    oracle.extend(one[:, None], one)
    state.admit(other)
    tokens = torch.randint(1, V, (2, 2))
    oracle.extend(tokens, None)
    torch.testing.assert_close(model.step(tokens, state), oracle.last(), rtol=1e-9, atol=1e-9)


@torch.inference_mode()
@pytest.mark.parametrize("beams", [1, 3])
def test_rows_that_are_left_over_and_sentences_that_need_more_slots(beams: int) -> None:
    torch.manual_seed(0)
    model = model_with(Sinusoidal())
    one, many = torch.ones(5, dtype=torch.int64), torch.full((1,), 30)
    memory, new_memory = model.encode(sources(5)), model.encode(sources(1))
    state, oracle = model.start(memory, beams, 50), Oracle(model, memory, beams)
    other, new_oracle = model.start(new_memory, beams, 50), Oracle(model, new_memory, beams)
    for its_state, its_oracle, lengths in ((state, oracle, one), (other, new_oracle, many)):
        prompt = torch.randint(1, V, (len(lengths), int(lengths.max())))
        model.step(prompt, its_state, lengths)
        its_oracle.extend(prompt, lengths)
    free = torch.tensor([1, 3, 4])
    state.admit(other, free)
    oracle.admit(new_oracle, [1])
    for _ in range(7):
        tokens = torch.randint(1, V, (5, beams))
        hidden = model.step(tokens, state)
        oracle.extend(tokens, None)
        there = [0, 1, 2]  # rows 3 and 4 stay free
        torch.testing.assert_close(hidden[there], oracle.last()[there], rtol=1e-9, atol=1e-9)


@torch.inference_mode()
def test_sentences_that_enter_free_rows_move_no_others() -> None:
    torch.manual_seed(0)
    model = model_with(Sinusoidal())
    memory = model.encode(Tokens(torch.randint(4, V, (5, 6)), torch.tensor([6, 6, 5, 4, 6])))
    state, other = (model.start(memory.keep(torch.arange(count)), 2, 20) for count in (5, 2))
    for each in (state, other):
        model.step(torch.ones(each.batch, 1, dtype=torch.int64), each, torch.ones(each.batch, dtype=torch.int64))
    model.step(torch.ones(5, 2, dtype=torch.int64), state)
    held = [x for cache in state.caches for x in (cache.key, cache.value)] + [x for pair in state.memory for x in pair]
    before = [x.data_ptr() for x in held]
    state.admit(other, torch.tensor([4, 1]))
    held = [x for cache in state.caches for x in (cache.key, cache.value)] + [x for pair in state.memory for x in pair]
    assert [x.data_ptr() for x in held] == before


def test_too_many_tokens_are_refused() -> None:
    model = model_with(Sinusoidal())
    state = model.start(model.encode(sources(1)), 1, capacity=2)
    model.step(torch.ones(1, 2, dtype=torch.int64), state, torch.tensor([2]))
    with pytest.raises(ValueError, match="capacity of 2"):
        model.step(torch.ones(1, 1, dtype=torch.int64), state)
    with pytest.raises(ValueError, match="one token for each of 1"):
        model.step(torch.ones(1, 2, dtype=torch.int64), state)


@torch.inference_mode()
@pytest.mark.parametrize("beams", [1, 2])
def test_keys_and_values_of_different_widths(beams: int) -> None:
    """Each layer caches what its attention says, and all of it stays with its hypothesis."""
    torch.manual_seed(0)
    shapes = [CacheShape(groups=2, key=3, value=5), CacheShape(groups=1, key=4, value=2)]

    def begin(batch: int) -> KeyValueState:
        return KeyValueState(shapes=shapes, batch=batch, beams=beams, capacity=20, device=torch.device("cpu"))

    def write(state: KeyValueState, queries: int, lengths: Tensor | None, first: int) -> None:
        """Keys and values that hold the number of their sentence, ``first`` + b."""
        state.advance(queries, lengths)
        number = torch.arange(first, first + state.batch, dtype=torch.float32)[:, None, None, None]
        for cache, shape in zip(state.caches, shapes, strict=True):
            new = [number.expand(-1, shape.groups, queries, width) for width in (shape.key, shape.value)]
            seen = cache.append(*new)
            assert [x.shape[1::2] for x in seen] == [(shape.groups, shape.key), (shape.groups, shape.value)]
        state.advanced(queries, lengths)

    state, other = begin(3), begin(2)
    write(state, 4, torch.tensor([4, 2, 3]), first=0)
    write(other, 5, torch.tensor([1, 5]), first=10)
    write(state, beams, None, first=0)
    state.keep(torch.tensor([2, 0]))
    state.admit(other, torch.tensor([1]))
    for cache, shape in zip(state.caches, shapes, strict=True):
        assert cache.key.shape == (3, shape.groups, state.slots.count, shape.key)
        assert cache.value.shape == (3, shape.groups, state.slots.count, shape.value)
        for b, number in enumerate([2, 10, 11]):
            live = state.slots.visible[b].any(0)
            assert {float(x) for kept in (cache.key, cache.value) for x in kept[b][:, live].flatten()} == {number}


def test_an_attention_says_what_it_caches() -> None:
    attention = Attention(heads=4, key_value_heads=2).build(32)
    assert attention.cache_shape == CacheShape(groups=2, key=8, value=8)
