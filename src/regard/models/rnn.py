"""The recurrent translator with attention (Bahdanau, Cho & Bengio 2015), to compare the Transformer with.

A bidirectional GRU reads the source; a GRU writes the target and attends, with additive attention, to the annotations
of the source at each step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from regard.models import contract
from regard.models.base import Scores, Share, TiedModel, one_vocabulary
from regard.models.options import at_least_one, option
from regard.nn.embedding import Embedding
from regard.nn.layout import Layout
from regard.nn.recurrent import AttentiveRecurrent, AttentiveState, Recurrent
from regard.nn.sequences import Memory, Output, Tokens


@dataclass(frozen=True, kw_only=True)
class RNN:
    """The options of the recurrent translator."""

    width: int = option(512, "width D of embeddings, states and annotations")
    encoder_layers: int = option(1, "GRUs of the encoder, one on another")
    decoder_layers: int = option(1, "GRUs of the decoder; the lowest attends to the source")
    bidirectional: bool = option(True, "the encoder reads both ways, with width / 2 units each")
    dropout: float = option(0.2, "dropout on states between layers and before the output")
    embedding_dropout: float | None = option(None, "dropout on embeddings; not given: as dropout")
    share: Share = option(
        "all",
        "one table for source, target and output (all), target and output (target), source and target (inputs), "
        "or none shared",
    )

    def __post_init__(self) -> None:
        at_least_one(self, "width", "encoder_layers", "decoder_layers")

    def tree(self) -> RecurrentTree:
        """The specs that these options stand for."""
        dropout = self.dropout if self.embedding_dropout is None else self.embedding_dropout
        source = Embedding(factor=math.sqrt(self.width), dropout=dropout)
        return RecurrentTree(
            source=source,
            encoder=Recurrent(layers=self.encoder_layers, dropout=self.dropout, bidirectional=self.bidirectional),
            target=replace(source, tied_to="source" if self.share in ("all", "inputs") else None),
            decoder=AttentiveRecurrent(layers=self.decoder_layers, dropout=self.dropout),
            scores=Scores(tied_to="target" if self.share in ("all", "target") else None),
        )

    def build(self, vocabulary: int, target_vocabulary: int | None = None) -> RNNModel:
        """The initialised model; ``target_vocabulary`` None: one vocabulary for both languages."""
        sizes = vocabulary, one_vocabulary(self.share, vocabulary, target_vocabulary)
        model = RNNModel(self.tree(), self.width, *sizes)
        model.options = self
        initialize(model)
        return model


PRESETS = {
    "base": RNN(),
    "big": RNN(width=1024, encoder_layers=2, decoder_layers=2, dropout=0.3),
    "small": RNN(width=256, dropout=0.3),
    "tiny": RNN(width=128, dropout=0.3),
}


@dataclass(frozen=True, kw_only=True)
class RecurrentTree:
    """A whole model as specs: embeddings, encoder, decoder, and how hidden states become scores."""

    source: Embedding
    encoder: Recurrent
    target: Embedding
    decoder: AttentiveRecurrent
    scores: Scores


class RNNModel(TiedModel):
    """Figure 1 of Bahdanau et al., with the contract of every model."""

    has_source = True

    def __init__(self, tree: RecurrentTree, width: int, vocabulary: int, target_vocabulary: int) -> None:
        super().__init__()
        self.spec, self.width = tree, width
        self.source_embedding = tree.source.build(vocabulary, width)
        self.encoder = tree.encoder.build(width)
        self.target_embedding = tree.target.build(target_vocabulary, width)
        self.decoder = tree.decoder.build(width, width)
        self.tie(tree.target, tree.scores)

    def encode(self, source: Tokens) -> Memory:
        """Source sentences [B, S] → their annotations, hidden [B, S, D]."""
        x = self.source_embedding(source.ids, segments=source.segments)
        return Memory(self.encoder(x, source.lengths), source.lengths)

    def forward(self, target: Tokens, memory: contract.Memory | None) -> Output:
        """Target inputs [B, T], begun with the start mark, and a memory → hidden [B, T, D]."""
        assert isinstance(memory, Memory), "a model with a source needs a memory"
        state = self.decoder.first_state(memory)
        key, value = self.decoder.unit.cross_attention.project_memory(memory.hidden)
        layout = Layout.cross(memory.lengths, memory.hidden.shape[1])
        x = self.target_embedding(target.ids, segments=target.segments)
        return Output(self.for_scores(self.decoder(x, state, key, value, layout)[0]))

    def start(
        self,
        memory: contract.Memory | None,
        beams: int,
        capacity: int,
        batch: int | None = None,
        dtype: torch.dtype | None = None,
    ) -> AttentiveState:
        """The state before the first word; its size does not depend on ``capacity``, nor its type on ``dtype``."""
        assert isinstance(memory, Memory), "a model with a source needs a memory"
        key, value = self.decoder.unit.cross_attention.project_memory(memory.hidden)
        return AttentiveState({"hidden": self.decoder.first_state(memory)}, beams, key, value, memory.lengths)

    def step(
        self,
        tokens: Tensor,
        state: contract.State,
        lengths: Tensor | None = None,
        extent: int | None = None,
        live: Tensor | None = None,
    ) -> Tensor:
        """One token of each hypothesis [B, N], or with ``lengths`` [B] a ragged prompt [B, Q] → hidden [B, Q, D]."""
        assert isinstance(state, AttentiveState), "the state is of another kind of model"
        x = self.target_embedding(tokens)
        hidden: Tensor
        if lengths is None:
            hidden, states = self.decoder.step(x, state.tensors["hidden"], state.key, state.value, state.layout())
            state.tensors["hidden"] = states
            return self.for_scores(hidden)
        before = state.tensors["hidden"][:, :, 0]  # before a prompt all hypotheses of a sentence have equal states
        hidden, states = self.decoder(x, before, state.key, state.value, state.layout())
        last = (lengths - 1).clamp(min=0)[:, None, None, None].expand(-1, 1, *states.shape[2:])
        after = torch.where((lengths > 0)[:, None, None], states.gather(1, last).squeeze(1), before)  # [B, L, D]
        state.tensors["hidden"] = state.for_all_beams(after)
        return self.for_scores(hidden)


@torch.no_grad()
def initialize(model: nn.Module) -> None:
    """Recurrent matrices orthogonal, as in the paper; the others Xavier-uniform, biases 0; tables keep N(0, 1/D)."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for name, parameter in model.named_parameters():
        last = name.rsplit(".", 1)[-1]
        recurrent = last.startswith("weight_hh") or name.endswith("unit.state.weight")
        if recurrent or last.startswith("weight_ih") or name.endswith(("unit.input.weight", "unit.context.weight")):
            for gate in parameter.chunk(3):  # reset, update and new are three matrices
                (nn.init.orthogonal_ if recurrent else nn.init.xavier_uniform_)(gate)
        elif last.startswith("bias_"):
            nn.init.zeros_(parameter)
