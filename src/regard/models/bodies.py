"""The two bodies of all models of Transformer layers, built from a tree of specs: they read no options.

``EncoderDecoder`` is figure 1 of the paper; ``Single`` is one stack, causal or not. Both have the contract of every
model (contract.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from regard.models import contract
from regard.models.base import Scores, TiedModel
from regard.models.heads import LabelHead
from regard.nn.embedding import Embedding
from regard.nn.layout import Layout
from regard.nn.sequences import Memory, Output, Tokens
from regard.nn.stacks import Stack, TransformerStack
from regard.nn.states import KeyValueState


@dataclass(frozen=True, kw_only=True)
class Tree:
    """A whole model as specs: embeddings, stacks, and how hidden states become scores.

    Without a ``source`` there is no ``encoder``, and the text is the ``target``. ``scores`` None: no scores of tokens.
    ``head`` gives scores of as many ``labels``; None: there are none.
    """

    source: Embedding | None = None
    encoder: Stack | None = None
    target: Embedding
    decoder: Stack
    scores: Scores | None
    head: LabelHead | None = None
    labels: int = 0


class _StackModel(TiedModel):
    """A model whose decoder is a stack with a key/value cache."""

    decoder: TransformerStack

    def step(
        self,
        tokens: Tensor,
        state: contract.State,
        lengths: Tensor | None = None,
        extent: int | None = None,
        live: Tensor | None = None,
    ) -> Tensor:
        """New tokens [B, Q] → hidden [B, Q, D]: a prompt with ``lengths`` [B], else a token for each hypothesis.

        ``live`` [R]: which of the B · N hypotheses go on, ascending; the others' hidden states are undefined.
        """
        assert isinstance(state, KeyValueState), "the state is of another kind of model"
        layout = state.advance(tokens.shape[1], lengths, extent)
        x = self.target_embedding(tokens, layout.positions)
        hidden: Tensor = self.decoder(
            x, layout, memory=state.memory, memory_layout=state.memory_layout, caches=state.caches, live=live
        )
        state.advanced(tokens.shape[1], lengths)
        return self.for_scores(hidden)


class EncoderDecoder(_StackModel):
    """Figure 1: an encoder stack, a decoder stack that attends to its memory, and the tables of input and output."""

    has_source = True

    def __init__(self, tree: Tree, width: int, vocabulary: int, target_vocabulary: int) -> None:
        super().__init__()
        assert tree.source is not None and tree.encoder is not None and tree.head is None, "this body has a source"
        self.spec, self.width = tree, width
        self.source_embedding = tree.source.build(vocabulary, width)
        self.encoder = tree.encoder.build(width)
        self.target_embedding = tree.target.build(target_vocabulary, width)
        self.decoder = tree.decoder.build(width)
        self.tie(tree.target, tree.scores)

    def encode(self, source: Tokens) -> Memory:
        """Source sentences [B, S] → their memory, hidden [B, S, D]."""
        x = self.source_embedding(source.ids, segments=source.segments)
        layout = Layout.padded(source.lengths, x.shape[1], packing=source.packed(self.training))
        return Memory(self.encoder(x, layout), source.lengths, layout.packing)

    def forward(self, target: Tokens, memory: contract.Memory | None) -> Output:
        """Target inputs [B, T], begun with the start mark, and a memory → hidden [B, T, D]: position t predicts t+1."""
        assert isinstance(memory, Memory), "a model with a source needs a memory"
        x = self.target_embedding(target.ids, segments=target.segments)
        layout = Layout.padded(target.lengths, x.shape[1], causal=True, packing=target.packed(self.training))
        cross = Layout.cross(memory.lengths, memory.hidden.shape[1], queries=layout.packing, keys=memory.packing)
        return Output(self.for_scores(self.decoder(x, layout, memory=memory.hidden, memory_layout=cross)))

    def start(
        self,
        memory: contract.Memory | None,
        beams: int,
        capacity: int,
        batch: int | None = None,
        dtype: torch.dtype | None = None,
    ) -> KeyValueState:
        """A decoding state for ``beams`` hypotheses of up to ``capacity`` tokens for each sentence of the memory.

        ``dtype`` is that of cached keys and values; None: that in which they are computed.
        """
        assert isinstance(memory, Memory), "a model with a source needs a memory"
        self.target_embedding.reserve(capacity)
        return KeyValueState(
            shapes=self.decoder.cache_shapes,
            batch=len(memory.lengths),
            beams=beams,
            capacity=capacity,
            device=memory.hidden.device,
            memory=self.decoder.project_memory(memory, dtype),
            memory_lengths=memory.lengths,
            dtype=dtype,
        )


class Single(_StackModel):
    """One stack; there is no source, so ``memory`` is None everywhere.

    A causal stack generates. In any other every token sees all others, and a head may give scores of labels.
    """

    has_source = False

    def __init__(self, tree: Tree, width: int, vocabulary: int) -> None:
        super().__init__()
        assert tree.source is None and tree.encoder is None, "this body has no source"
        self.spec, self.width = tree, width
        self.target_embedding = tree.target.build(vocabulary, width)
        self.decoder = tree.decoder.build(width)
        self.tie(tree.target, tree.scores)
        self.causal = tree.decoder.causal
        self.head = None if tree.head is None else tree.head.build(width, tree.labels)

    def encode(self, source: Tokens) -> Memory:
        """Raises TypeError: such a model takes what precedes an output as a prompt, in ``step``."""
        raise TypeError("this model has no source; give the text before as a prompt")

    def forward(self, target: Tokens, memory: contract.Memory | None = None) -> Output:
        """Token ids [B, T] → hidden [B, T, D]: in a causal stack position t predicts t+1, else token t."""
        return Output(self.for_scores(self._states(target)))

    def label_scores(self, target: Tokens) -> Tensor:
        """Texts [B, T] → the scores of labels of texts [B, C], of tokens [B, T, C], or of spans [B, T, 2].

        Raises TypeError where the model has no head for them.
        """
        if self.head is None:
            raise TypeError("this model has no scores of labels; give it a head")
        scores: Tensor = self.head(self._states(target), target.lengths)
        return scores

    def _states(self, target: Tokens) -> Tensor:
        """The hidden states of the stack's end, [B, T, D]."""
        x = self.target_embedding(target.ids, segments=target.segments)
        packing = target.packed(self.training)
        layout = Layout.padded(target.lengths, x.shape[1], causal=self.causal, packing=packing)
        states: Tensor = self.decoder(x, layout)
        return states

    def start(
        self,
        memory: contract.Memory | None,
        beams: int,
        capacity: int,
        batch: int | None = None,
        dtype: torch.dtype | None = None,
    ) -> contract.State:
        """A decoding state for ``beams`` hypotheses of up to ``capacity`` tokens for each of ``batch`` prompts.

        ``dtype`` is that of cached keys and values; None: that in which they are computed. Raises TypeError where the
        stack is not causal.
        """
        self._check_causal()
        assert batch is not None, "without a source, the number of sentences has to be given"
        self.target_embedding.reserve(capacity)
        return KeyValueState(
            shapes=self.decoder.cache_shapes,
            batch=batch,
            beams=beams,
            capacity=capacity,
            device=self.target_embedding.table.weight.device,
            dtype=dtype,
        )

    def step(
        self,
        tokens: Tensor,
        state: contract.State,
        lengths: Tensor | None = None,
        extent: int | None = None,
        live: Tensor | None = None,
    ) -> Tensor:
        """As every model's; raises TypeError where the stack is not causal."""
        self._check_causal()
        return super().step(tokens, state, lengths, extent, live)

    def _check_causal(self) -> None:
        if not self.causal:
            raise TypeError("this model does not generate: each of its tokens sees those after it")
