"""Decoding step by step gives what the whole prefixes give, whatever hypotheses and sentences do in between."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from thin import V, alone, close, memory_of, oracle, sentences
from torch import Tensor, nn

from regard.nn.sequences import Memory, Tokens

N = 3


class Beams:
    """A model's state, and beside it every hypothesis as a list of ids that are run through the model's whole pass."""

    def __init__(self, model: nn.Module, batch: int, seed: int, beams: int = N, capacity: int = 24) -> None:
        self.model, self.beams = model, beams
        generator = torch.Generator().manual_seed(seed)
        lengths = torch.randint(1, 7, (batch,), generator=generator).tolist()
        memory, true = memory_of(model, lengths, seed), memory_of(oracle(model), lengths, seed)
        self.memories: list[Memory | None] = [alone(true, b) for b in range(batch)]
        self.state: Any = model.start(memory, beams, capacity, batch)
        self.ids: list[list[list[int]]] = [[[] for _ in range(beams)] for _ in range(batch)]
        self.generator = generator

    def draw(self, high: int, *size: int, low: int = 0) -> Tensor:
        return torch.randint(low, high, size, generator=self.generator)

    def prompt(self, lengths: list[int]) -> None:
        """A ragged prompt: its hidden states are checked at every real position."""
        tokens = sentences(lengths, seed=int(self.draw(1000)))
        hidden = self.model.step(tokens.ids, self.state, tokens.lengths)
        for b, length in enumerate(lengths):
            ids = tokens.ids[b, :length].tolist()
            self.ids[b] = [hypothesis + ids for hypothesis in self.ids[b]]
            close(hidden[b, :length], self.whole(b, self.ids[b][0])[-length:])

    def step(self, follow: bool = True) -> None:
        """Each hypothesis chooses whom it continues, and one more token; the hidden states are checked."""
        batch = len(self.ids)
        if follow:
            parents = self.draw(self.beams, batch, self.beams)
            self.state.follow(parents)
            self.ids = [[old[p] for p in new] for old, new in zip(self.ids, parents.tolist(), strict=True)]
        tokens = self.draw(V, batch, self.beams, low=4)
        hidden = self.model.step(tokens, self.state, None)
        assert hidden.shape == (batch, self.beams, self.model.width)
        for b in range(batch):
            self.ids[b] = [[*ids, int(t)] for ids, t in zip(self.ids[b], tokens[b], strict=True)]
            close(hidden[b], torch.stack([self.whole(b, ids)[-1] for ids in self.ids[b]]))

    def keep(self, index: list[int]) -> None:
        self.state.keep(torch.tensor(index, dtype=torch.int64))
        self.ids, self.memories = [self.ids[i] for i in index], [self.memories[i] for i in index]
        assert self.state.batch == len(index) and self.state.beams == self.beams

    def admit(self, other: Beams, free: list[int] | None = None) -> None:
        """Sentences enter the ``free`` rows first, which are not more than they, then new rows."""
        self.state.admit(other.state, torch.tensor(free) if free else None)
        for number, (ids, memory) in enumerate(zip(other.ids, other.memories, strict=True)):
            place = slice(free[number], free[number] + 1) if free and number < len(free) else slice(len(self.ids), None)
            self.ids[place], self.memories[place] = [ids], [memory]
        assert self.state.batch == len(self.ids)

    def whole(self, b: int, ids: list[int]) -> Tensor:
        """The oracle: hidden [T, D] of a whole prefix, nothing cached, nothing padded."""
        return oracle(self.model)(Tokens(torch.tensor([ids]), torch.tensor([len(ids)])), self.memories[b]).hidden[0]


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.inference_mode():
        yield


@pytest.mark.parametrize("lengths", [[1, 1, 1], [4, 4, 4], [2, 5, 1]])
def test_cached_equals_uncached(decoder: nn.Module, lengths: list[int]) -> None:
    beams = Beams(decoder, 3, seed=1)
    beams.prompt(lengths)
    for number in range(8):
        beams.step(follow=number > 0)


def test_a_prompt_may_come_in_parts(decoder: nn.Module) -> None:
    beams = Beams(decoder, 3, seed=9)
    beams.prompt([2, 4, 1])
    beams.prompt([3, 1, 5])
    for number in range(3):
        beams.step(follow=number > 0)


def test_one_hypothesis_is_greedy_search(decoder: nn.Module) -> None:
    beams = Beams(decoder, 2, seed=2, beams=1)
    beams.prompt([1, 3])
    for _ in range(4):
        beams.step(follow=False)


def test_sentences_leave_and_enter(decoder: nn.Module) -> None:
    beams = Beams(decoder, 4, seed=3)
    beams.prompt([2, 1, 3, 1])
    for _ in range(3):
        beams.step()
    beams.keep([3, 0])
    beams.step()
    other = Beams(decoder, 3, seed=4)
    other.prompt([1, 4, 2])
    beams.admit(other)
    for _ in range(3):
        beams.step()
    beams.keep([4, 1, 2])
    third = Beams(decoder, 1, seed=5)
    third.prompt([2])
    third.step()
    beams.admit(third)
    for _ in range(4):
        beams.step()


def test_sentences_take_the_rows_of_those_that_have_left(decoder: nn.Module) -> None:
    beams = Beams(decoder, 4, seed=10)
    beams.prompt([2, 1, 3, 1])
    for _ in range(3):
        beams.step()
    for seed, free in ((11, [2, 0]), (12, [3, 1, 2])):
        other = Beams(decoder, 3, seed=seed)
        other.prompt([5, 1, 2])
        beams.admit(other, free)
        for _ in range(3):
            beams.step()
    beams.keep([4, 1, 2])
    beams.step()


def test_all_sentences_leave_and_new_ones_enter(decoder: nn.Module) -> None:
    beams = Beams(decoder, 2, seed=6)
    beams.prompt([1, 2])
    beams.step()
    beams.keep([])
    other = Beams(decoder, 2, seed=7)
    other.prompt([3, 1])
    beams.admit(other)
    beams.step()


def test_many_steps_with_few_survivors(decoder: nn.Module) -> None:
    """Hypotheses that all come from one: most of what was computed is dead, and may be thrown away."""
    beams = Beams(decoder, 2, seed=8, capacity=48)
    beams.prompt([1, 2])
    for number in range(40):
        if number % 10 == 9:
            beams.state.follow(torch.zeros(2, N, dtype=torch.int64))
            beams.ids = [[old[0]] * N for old in beams.ids]
        beams.step()
