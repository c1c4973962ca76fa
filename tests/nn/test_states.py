"""Cached decoding gives what the whole prefixes give, whatever beams and sentences do in between."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from regard.models.transformer import Transformer, TransformerModel
from regard.nn.layout import Memory, Tokens
from regard.nn.positions import Learned, NoPositions, Positions, RelativeBias, Rotary, Sinusoidal
from regard.nn.states import KeyValueState

V = 23
KINDS: list[Positions] = [Sinusoidal(), Learned(64), Rotary(), RelativeBias(8, 16), NoPositions()]


def model_with(positions: Positions) -> TransformerModel:
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

    def __init__(self, model: TransformerModel, memory: Memory, beams: int) -> None:
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

        def begin(batch: int, model: TransformerModel = model) -> tuple[Oracle, KeyValueState]:
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
                if turn % 2:
                    state._compact()
                state.admit(new_state)
                size = max(oracle.memory.hidden.shape[1], new_oracle.memory.hidden.shape[1])
                hidden_parts = [
                    torch.nn.functional.pad(m.hidden, (0, 0, 0, size - m.hidden.shape[1]))
                    for m in (oracle.memory, new_oracle.memory)
                ]
                lengths = torch.cat([oracle.memory.lengths, new_oracle.memory.lengths])
                oracle.memory = Memory(torch.cat(hidden_parts), lengths)
                oracle.ids += new_oracle.ids
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
def test_dead_slots_are_compacted_away_and_live_ones_do_not_move_before() -> None:
    torch.manual_seed(0)
    model, beams = model_with(Sinusoidal()), 4
    state = model.start(model.encode(sources(2)), beams, capacity=200)
    model.step(torch.ones(2, 1, dtype=torch.int64), state, torch.ones(2, dtype=torch.int64))
    most = 0
    for _ in range(150):
        model.step(torch.randint(1, V, (2, beams)), state)
        state.follow(torch.zeros(2, beams, dtype=torch.int64))  # one ancestor a step: 3 of 4 slots die
        most = max(most, state.slots)
    assert state.top < 150 * beams / 1.5, "dead slots were kept"
    live = state.visible.any(1).sum(1)
    assert (live == 151).all(), "151 tokens are seen by somebody"


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


def test_too_many_tokens_are_refused() -> None:
    model = model_with(Sinusoidal())
    state = model.start(model.encode(sources(1)), 1, capacity=2)
    model.step(torch.ones(1, 2, dtype=torch.int64), state, torch.tensor([2]))
    with pytest.raises(ValueError, match="capacity of 2"):
        model.step(torch.ones(1, 1, dtype=torch.int64), state)
    with pytest.raises(ValueError, match="one token for each of 1"):
        model.step(torch.ones(1, 2, dtype=torch.int64), state)
