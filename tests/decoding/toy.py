"""A thin model of the decoding contract, and beam search written out by hand to compare with."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from regard.decoding.search import Search
from regard.nn.sequences import Tokens
from regard.text.settings import TextSettings

EOS = 3


@dataclass(frozen=True, kw_only=True)
class ToySettings(TextSettings):
    suppressed: tuple[int, ...] = (0, 2)


class ToyMemory(NamedTuple):
    hidden: Tensor
    lengths: Tensor

    def join(self, others: Sequence[ToyMemory]) -> ToyMemory:
        parts = [self, *others]
        return ToyMemory(torch.cat([each.hidden for each in parts]), torch.cat([each.lengths for each in parts]))


class ToyState:
    def __init__(self, hidden: Tensor) -> None:
        self.hidden = hidden  # [B, N, D]

    def follow(self, parents: Tensor) -> None:
        self.hidden = self.hidden.gather(1, parents[:, :, None].expand_as(self.hidden))

    def keep(self, index: Tensor) -> None:
        self.hidden = self.hidden.index_select(0, index)

    def admit(self, other: ToyState, free: Tensor | None = None) -> None:
        hidden, new = list(self.hidden), list(other.hidden)
        for place in [] if free is None else free.tolist()[: len(new)]:
            hidden[place] = new.pop(0)
        self.hidden = torch.stack(hidden + new)


class Toy(nn.Module):
    """h' = tanh(W h + embedding): every token of the history matters."""

    has_source = True
    longest = None  # there is no last position

    def __init__(
        self, vocabulary: int = 40, width: int = 12, seed: int = 0, sharpness: float = 3.0, ending: float = 0.0
    ) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(seed)
        self.table = nn.Parameter(torch.randn(vocabulary, width, generator=random))
        self.mix = nn.Parameter(torch.randn(width, width, generator=random) / width**0.5)
        self.sharpness = sharpness
        self.ending = torch.zeros(vocabulary)
        self.ending[EOS] = ending
        self.steps = 0

    def encode(self, source: Tokens) -> ToyMemory:
        real = torch.arange(source.ids.shape[1]) < source.lengths[:, None]
        return ToyMemory((self.table[source.ids] * real[:, :, None]).sum(1) / source.lengths[:, None], source.lengths)

    def _next(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        return torch.tanh(hidden @ self.mix + self.table[tokens])

    def start(self, memory: ToyMemory | None, beams: int, capacity: int, batch: int | None = None) -> ToyState:
        start = memory.hidden if memory is not None else torch.zeros(batch, self.table.shape[1])
        return ToyState(start[:, None].repeat(1, beams, 1))

    def step(
        self,
        tokens: Tensor,
        state: ToyState,
        lengths: Tensor | None = None,
        extent: int | None = None,
        live: Tensor | None = None,
    ) -> Tensor:
        self.steps += 1
        if lengths is None:
            state.hidden = self._next(state.hidden, tokens)
            return state.hidden
        hidden, out = state.hidden[:, 0], []
        for place in range(tokens.shape[1]):
            moved = self._next(hidden, tokens[:, place])
            hidden = torch.where((place < lengths)[:, None], moved, hidden)
            out.append(hidden)
        state.hidden = hidden[:, None].repeat(1, state.hidden.shape[1], 1)
        return torch.stack(out, 1)

    def forward(self, target: Tokens, memory: ToyMemory | None):
        state = self.start(memory, 1, 0, target.ids.shape[0])
        return type("Output", (), {"hidden": self.step(target.ids, state, target.lengths), "losses": {}})()

    def logits(self, hidden: Tensor, candidates: Tensor | None = None) -> Tensor:
        return self.sharpness * hidden @ self.table.T + self.ending

    def output_table(self) -> tuple[Tensor, None]:
        return self.table, None


def sentences(count: int, seed: int = 0, vocabulary: int = 40, longest: int = 9) -> list[list[int]]:
    draw = random.Random(seed)
    return [[draw.randrange(4, vocabulary) for _ in range(draw.randint(0, longest))] for _ in range(count)]


@torch.no_grad()
def by_hand(
    model: Toy, source: list[int], settings: ToySettings, search: Search
) -> list[tuple[list[int], float, float]]:
    """Beam search of one sentence with lists, which never stops before the longest output.

    Hypotheses are fed anew at every step. Returns all that finished, best normalised first.
    """
    read = [*settings.source_before, *source, *settings.source_after]
    memory = model.encode(Tokens(torch.tensor([read]), torch.tensor([len(read)])))
    limit = max(1, len(source) + search.max_extra)
    live: list[tuple[list[int], float]] = [([], 0.0)]
    finished = []
    for length in range(1, limit + 1):
        found = []
        for ids, score in live:
            fed = torch.tensor([[*settings.start, *ids]])
            hidden = model.forward(Tokens(fed, torch.tensor([fed.shape[1]])), memory).hidden[0, -1]
            logp = torch.log_softmax(model.logits(hidden), 0).tolist()
            allowed = [v for v in range(len(logp)) if v not in settings.suppressed]
            if length == limit and search.stopping == "exact" and settings.ends:
                allowed = [max(settings.ends, key=lambda end: logp[end])]
            size = search.no_repeat_ngram
            for v in allowed:
                grams = [tuple(ids[i : i + size]) for i in range(len(ids) - size + 1)]
                if not size or len(ids) < size - 1 or (*ids[len(ids) - size + 1 :], v) not in grams:
                    found.append((ids, v, score + logp[v]))
        found.sort(key=lambda item: -item[2])
        for ids, v, score in found[: search.beam]:
            if v in settings.ends or length == limit:
                whole = ids if v in settings.ends else [*ids, v]
                finished.append((whole, score, search.length_penalty.apply(score, length)))
        if search.beam == 1 and found[0][1] in settings.ends:
            break
        live = [([*ids, v], score) for ids, v, score in found if v not in settings.ends][: search.beam]
    return sorted(finished, key=lambda item: -item[2])
