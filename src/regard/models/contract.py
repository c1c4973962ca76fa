"""The contract: all that training, decoding, looking and serving know of a model.

Axes are those of regard.nn.sequences. tests/conformance/ holds every registered architecture to the contract.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from regard.nn.sequences import Output, Tokens


class Memory(Protocol):
    """The output of an encoder, for a decoder, sentences on axis 0; its content is known to these two alone."""

    def keep(self, index: Tensor) -> Self:
        """The memories of the chosen sentences, index [B'], in its order."""
        ...

    def join(self, others: Sequence[Self]) -> Self:
        """The memories of these sentences, then of the others'."""
        ...


class State(Protocol):
    """The state of a decoder between steps: tensors with sentences on axis 0, changed in place on the object."""

    @property
    def batch(self) -> int:
        """How many sentences there are."""
        ...

    @property
    def beams(self) -> int:
        """How many hypotheses N each sentence has."""
        ...

    def follow(self, parents: Tensor) -> None:
        """Hypothesis n of sentence b goes on from hypothesis parents[b, n]; parents [B, N]."""
        ...

    def keep(self, index: Tensor) -> None:
        """Only the sentences of index [B'] stay, in its order."""
        ...

    def admit(self, other: Self, free: Tensor | None = None) -> None:
        """The sentences of a state of as many beams take the ``free`` rows [F] first, then new rows at the end."""
        ...


class Module(Protocol):
    """The part of ``nn.Module`` that training, decoding and looking use."""

    training: bool

    def train(self, mode: bool = True) -> Any: ...
    def eval(self) -> Any: ...
    def to(self, device: torch.device, /) -> Any: ...
    def modules(self) -> Iterator[nn.Module]: ...
    def named_modules(self) -> Iterator[tuple[str, nn.Module]]: ...
    def parameters(self) -> Iterator[nn.Parameter]: ...
    def named_parameters(self, *, remove_duplicate: bool = True) -> Iterator[tuple[str, nn.Parameter]]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any: ...


class Model(Module, Protocol):
    """A model of any architecture; ``has_source`` says whether it encodes a source, or only continues a prompt."""

    @property
    def has_source(self) -> bool: ...

    @property
    def has_scores(self) -> bool:
        """Whether there is an output table, which gives scores of tokens."""
        ...

    @property
    def width(self) -> int:
        """The model width D."""
        ...

    @property
    def ties(self) -> Mapping[str, str]:
        """Parameters that are one in memory: left out on disk → kept."""
        ...

    @property
    def longest(self) -> int | None:
        """How many tokens of a sentence have positions, its mark included; None: unlimited."""
        ...

    def encode(self, source: Tokens) -> Memory:
        """Source sentences, ids [B, S] → their memory; a TypeError where there is no source."""
        ...

    def __call__(self, target: Tokens, memory: Memory | None, /) -> Output:
        """Target inputs, ids [B, T], and a memory, or None without a source → hidden [B, T, D].

        Position t of a model that generates predicts t + 1, that of another the token t itself.
        """
        ...

    def logits(self, hidden: Tensor, candidates: Tensor | None = None) -> Tensor:
        """hidden [*, D] → [*, V], or [*, C] for the ``candidates`` [C] alone."""
        ...

    def output_table(self) -> tuple[Tensor, Tensor | None]:
        """The matrix [V, D] that makes logits of hidden states, and their bias [V] if there is one.

        A TypeError where the model has no scores of tokens.
        """
        ...

    def start(
        self,
        memory: Memory | None,
        beams: int,
        capacity: int,
        batch: int | None = None,
        dtype: torch.dtype | None = None,
    ) -> State:
        """The state before the first token, for ``beams`` hypotheses of up to ``capacity`` tokens a sentence.

        Without a source, ``batch`` is how many sentences there are. Cached keys and values are kept in ``dtype``; None:
        that in which they are computed. A TypeError where the model does not generate.
        """
        ...

    def step(
        self,
        tokens: Tensor,
        state: State,
        lengths: Tensor | None = None,
        extent: int | None = None,
        live: Tensor | None = None,
    ) -> Tensor:
        """New tokens [B, Q] → hidden [B, Q, D]; ``state`` is one that this model started.

        With ``lengths`` [B] the tokens are a right-padded prompt for all hypotheses, else one for each of N = Q.
        ``extent``: how many slots of a cache are read; None: as many as are in use. ``live`` [R]: which of the B · N
        hypotheses go on, ascending; the others' hidden states are undefined. A TypeError where the model does not
        generate.
        """
        ...


class LabelModel(Model, Protocol):
    """A model with the capability ``labels`` of the registry: it gives scores of labels."""

    def label_scores(self, target: Tokens) -> Tensor:
        """Texts, ids [B, T] → scores of the C labels of texts [B, C] or of tokens [B, T, C], or of spans [B, T, 2].

        The two scores of spans are those of the first and of the last token. The scores of padding are never read. A
        TypeError where the model has no head for labels.
        """
        ...
