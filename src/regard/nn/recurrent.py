"""Recurrent parts: a GRU encoder, and a decoder that attends to the memory at each step (Bahdanau et al. 2015).

A recurrent layer reads a sentence one position after another. So its states are small (one vector per layer and
hypothesis, for any length), and training cannot compute all positions at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from regard.nn.additive import AdditiveCore
from regard.nn.dropout import Dropout
from regard.nn.layout import Layout
from regard.nn.padding import real
from regard.nn.rows import Rows
from regard.nn.sequences import Memory


@dataclass(frozen=True, kw_only=True)
class Recurrent:
    """Spec of an encoder of ``layers`` GRUs; ``bidirectional``: D / 2 units read forwards, D / 2 backwards."""

    layers: int = 1
    dropout: float = 0.0
    bidirectional: bool = True

    def build(self, width: int) -> RecurrentEncoder:
        if self.bidirectional and width % 2:
            raise ValueError(f"a bidirectional encoder needs an even width, and width={width} is odd")
        return RecurrentEncoder(self, width)


class RecurrentEncoder(nn.Module):
    """Section 3.2 of Bahdanau et al.: an annotation h_j of each source position, from the words on both its sides."""

    def __init__(self, spec: Recurrent, width: int) -> None:
        super().__init__()
        self.layers = nn.GRU(
            width,
            width // 2 if spec.bidirectional else width,
            spec.layers,
            batch_first=True,
            dropout=spec.dropout if spec.layers > 1 else 0.0,  # between layers only, so one layer has none
            bidirectional=spec.bidirectional,
        )

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """x [B, S, D] → [B, S, D], zeros at padding; the backward GRU starts at each sentence's own last token."""
        # PyTorch takes the lengths on the CPU only (on CUDA the host waits for them), each at least 1.
        packed = pack_padded_sequence(x, lengths.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False)
        out, _ = pad_packed_sequence(self.layers(packed)[0], batch_first=True, total_length=x.shape[1])
        return out


class AdditiveAttention(nn.Module):
    """α_ij = softmax_j(vᵀ tanh(W s_i + U h_j)): one head; the memory's U h_j is computed once per sentence."""

    def __init__(self, width: int, memory_width: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(memory_width, width)
        self.vector = nn.Parameter(torch.empty(width))
        nn.init.normal_(self.vector, 0, width**-0.5)
        self.core = AdditiveCore()

    def project_memory(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """A memory [B, S, M] → its keys [B, 1, S, D] and values [B, 1, S, M]."""
        return self.key(memory).unsqueeze(1), memory.unsqueeze(1)

    def forward(self, x: Tensor, key: Tensor, value: Tensor, layout: Layout) -> Tensor:
        """States x [B, Q, D] → contexts [B, Q, M]."""
        context: Tensor = self.core(self.query(x).unsqueeze(1), key, value, layout, vector=self.vector)
        return context.squeeze(1)


class AttentiveUnit(nn.Module):
    """A GRU of the previous word and of a context c_i to which s_{i-1} attends: s_i = GRU(s_{i-1}, [y_{i-1}; c_i])."""

    def __init__(self, width: int, memory_width: int) -> None:
        super().__init__()
        self.cross_attention = AdditiveAttention(width, memory_width)
        self.input = nn.Linear(width, 3 * width)
        self.context = nn.Linear(memory_width, 3 * width, bias=False)
        self.state = nn.Linear(width, 3 * width)

    def forward(
        self, gates: Tensor, state: Tensor, key: Tensor, value: Tensor, layout: Layout
    ) -> tuple[Tensor, Tensor]:
        """One step: gates = input(words) [B, N, 3D], state [B, N, D] → the next state [B, N, D], context [B, N, M]."""
        context = self.cross_attention(state, key, value, layout)
        return gated(gates + self.context(context), self.state(state), state), context


def gated(inputs: Tensor, states: Tensor, state: Tensor) -> Tensor:
    """The GRU of Cho et al. 2014, as PyTorch has it: inputs, states [*, 3D] (reset, update, new), state [*, D].

    r, z = σ(·);  n = tanh(input + r · state_n);  next = (1 - z) · n + z · state.
    """
    width = state.shape[-1]
    reset, update = torch.sigmoid(inputs[..., : 2 * width] + states[..., : 2 * width]).chunk(2, dim=-1)
    new = torch.tanh(torch.addcmul(inputs[..., 2 * width :], reset, states[..., 2 * width :]))
    return torch.lerp(new, state, update)


@dataclass(frozen=True, kw_only=True)
class AttentiveRecurrent:
    """Spec of a decoder: its lowest GRU attends to the memory, and ``layers`` - 1 GRUs follow."""

    layers: int = 1
    dropout: float = 0.0

    def build(self, width: int, memory_width: int) -> RecurrentDecoder:
        return RecurrentDecoder(self, width, memory_width)


class RecurrentDecoder(nn.Module):
    """Words and a memory → hidden states; the output layer reads state, word and context together."""

    def __init__(self, spec: AttentiveRecurrent, width: int, memory_width: int) -> None:
        super().__init__()
        self.depth = spec.layers
        self.start = nn.Linear(memory_width, spec.layers * width)
        self.unit = AttentiveUnit(width, memory_width)
        self.upper = nn.ModuleList(nn.GRU(width, width, batch_first=True) for _ in range(spec.layers - 1))
        self.output = nn.Linear(2 * width + memory_width, width)
        self.dropout = Dropout(spec.dropout)

    def first_state(self, memory: Memory) -> Tensor:
        """tanh(W · mean of the memory), [B, L, D]: the mean, not one end, as in Nematus (Sennrich et al. 2017)."""
        seen = real(memory.lengths, memory.hidden.shape[1]).unsqueeze(-1)
        mean = (memory.hidden * seen).sum(1) / memory.lengths.clamp(min=1).unsqueeze(-1)
        first = torch.tanh(self.start(mean))
        return first.view(len(first), self.depth, -1)

    def forward(self, x: Tensor, state: Tensor, key: Tensor, value: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """Words x [B, T, D] after ``state`` [B, L, D] → hidden [B, T, D] and the state after each word [B, T, L, D]."""
        below = state[:, None, 0]  # [B, 1, D]
        steps: list[tuple[Tensor, Tensor]] = []
        for gates in self.unit.input(x).split(1, dim=1):
            steps.append(self.unit(gates, below, key, value, layout))
            below = steps[-1][0]
        lowest, context = (torch.cat(parts, 1) for parts in zip(*steps, strict=True))
        states = [lowest]
        for number, layer in enumerate(self.upper, start=1):
            states.append(layer(self.dropout(states[-1]), state[:, number].unsqueeze(0).contiguous())[0])
        return self._read(states[-1], x, context), torch.stack(states, dim=2)

    def step(self, x: Tensor, state: Tensor, key: Tensor, value: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """One word of each hypothesis: x [B, N, D], state [B, L, N, D] → hidden [B, N, D], the next state."""
        lowest, context = self.unit(self.unit.input(x), state[:, 0], key, value, layout)
        states = [lowest]
        for number, layer in enumerate(self.upper, start=1):
            rows = self.dropout(states[-1]).flatten(0, 1).unsqueeze(1)  # [B · N, 1, D]: a hypothesis is a sentence
            out, _ = layer(rows, state[:, number].flatten(0, 1).unsqueeze(0))
            states.append(out.view_as(lowest))
        return self._read(states[-1], x, context), torch.stack(states, dim=1)

    def _read(self, state: Tensor, x: Tensor, context: Tensor) -> Tensor:
        hidden = torch.tanh(self.output(torch.cat([self.dropout(state), x, context], dim=-1)))
        out: Tensor = self.dropout(hidden)
        return out


class RecurrentState:
    """The decoding state of recurrent layers: named ``tensors`` [B, L, N, *].

    A GRU has one tensor, its hidden states; an LSTM has two; linear attention may have matrices. ``follow``,
    ``keep`` and ``admit`` treat all tensors alike.
    """

    def __init__(self, tensors: Mapping[str, Tensor], beams: int) -> None:
        """tensors [B, L, *], at least one, the same for all beams."""
        self.beams = beams
        self.tensors = {name: self.for_all_beams(tensor) for name, tensor in tensors.items()}

    @property
    def batch(self) -> int:
        """How many sentences there are."""
        return len(next(iter(self.tensors.values())))

    def for_all_beams(self, x: Tensor) -> Tensor:
        """[B, L, *] → [B, L, N, *]: every hypothesis of a sentence gets the same."""
        return x.unsqueeze(2).expand(-1, -1, self.beams, *x.shape[2:]).contiguous()

    def follow(self, parents: Tensor) -> None:
        """Hypothesis n of sentence b goes on from hypothesis parents[b, n]; parents [B, N]."""
        for name, x in self.tensors.items():
            index = parents.view(len(parents), 1, self.beams, *(1,) * (x.dim() - 3))
            self.tensors[name] = x.gather(2, index.expand_as(x))

    def keep(self, index: Tensor) -> None:
        """Only the sentences of ``index`` [B'] stay, in its order."""
        self.tensors = {name: x.index_select(0, index) for name, x in self.tensors.items()}

    def admit(self, other: Self, free: Tensor | None = None) -> None:
        """The sentences of another state of as many beams take the ``free`` rows [F] first, and then come behind."""
        self._enter(other, Rows.of(other.batch, free, self.batch, next(iter(self.tensors.values())).device))

    def _enter(self, other: Self, rows: Rows) -> None:
        self.tensors = {name: rows.put(x, other.tensors[name]) for name, x in self.tensors.items()}


class AttentiveState(RecurrentState):
    """What a ``RecurrentDecoder`` remembers: its layers' tensors, and the memory once per sentence."""

    def __init__(self, tensors: Mapping[str, Tensor], beams: int, key: Tensor, value: Tensor, lengths: Tensor) -> None:
        """tensors [B, L, *], the same for all beams; key [B, 1, S, D], value [B, 1, S, M], lengths [B] of a memory."""
        super().__init__(tensors, beams)
        self.key, self.value, self.lengths = key, value, lengths

    def layout(self) -> Layout:
        """Who sees what of the memory."""
        return Layout.cross(self.lengths, self.key.shape[2])

    def keep(self, index: Tensor) -> None:
        """Only the sentences of ``index`` [B'] stay, in its order."""
        super().keep(index)
        self.lengths = self.lengths.index_select(0, index)
        size = int(self.lengths.max()) if len(index) else 0  # the longest may have left
        self.key, self.value = (memory[:, :, :size].index_select(0, index) for memory in (self.key, self.value))

    def _enter(self, other: Self, rows: Rows) -> None:
        super()._enter(other, rows)
        size = max(self.key.shape[2], other.key.shape[2])
        self.key, self.value = (
            rows.put(_padded(mine, size), _padded(theirs, size))
            for mine, theirs in ((self.key, other.key), (self.value, other.value))
        )
        self.lengths = rows.put(self.lengths, other.lengths)


def _padded(x: Tensor, size: int) -> Tensor:
    """[B, 1, S, D] with zeros up to ``size`` on its third axis."""
    return nn.functional.pad(x, (0, 0, 0, size - x.shape[2]))
