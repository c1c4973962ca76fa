"""One step of beam search, as a pure function of scores; greedy search is the beam of one.

The candidates of a sentence are the best 2N continuations of its N hypotheses, (1 + E) N where E > 1 tokens end an
output. Those among the first N that end the sentence are finished, the first N that do not end it live on. This is the
rule of Hugging Face and of CTranslate2 too; only the moment to stop differs (``Search.stopping``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor

from regard import limits
from regard.decoding.ranking import LengthPenalty
from regard.errors import RegardError

if TYPE_CHECKING:
    from regard.config import DecodingConfig

Stopping = Literal["exact", "first", "huggingface"]


@dataclass(frozen=True, kw_only=True)
class Search:
    """The options of a search.

    ``stopping``: ``exact`` ends a sentence when no live hypothesis can enter its n best any more, so that the result
    is that of the search which never stops early; ``first`` ends it when as many hypotheses have finished as the
    beam is wide (Hugging Face's ``early_stopping=True``, and CTranslate2, but for power:0); ``huggingface`` is Hugging
    Face's ``early_stopping="never"``. At the maximum length ``exact`` allows an end token alone, and counts its
    probability; the others take the best N hypotheses as they are, as their peers do.

    CTranslate2 with power:0 ends a sentence earlier: when the best candidate ends and ``n_best`` have finished. The
    best hypothesis is the same then, the others need not be.
    """

    beam: int = 5
    length_penalty: LengthPenalty = field(default_factory=LengthPenalty)
    max_extra: int = 50  # longest output = length of the input + this; tokens, the end mark counted
    max_tokens: int | None = None  # longest output, whatever the input's length; None: ``max_extra`` bounds it
    n_best: int = 1
    stopping: Stopping = "exact"
    no_repeat_ngram: int = 0  # no n-gram of this length twice in an output; 0 = allowed

    def __post_init__(self) -> None:
        object.__setattr__(self, "length_penalty", LengthPenalty.parse(self.length_penalty))
        limits.whole("beam", self.beam, 1, limits.BEAM)
        limits.whole("n-best", self.n_best, 1, limits.ANY_NUMBER)
        if self.n_best > self.beam:
            raise RegardError(f"n-best {self.n_best}: expected 1 to the beam's width, which is {self.beam}")
        limits.whole("max extra", self.max_extra, -limits.ANY_NUMBER, limits.EXTRA_TOKENS)
        if self.max_tokens is not None:
            limits.whole("max tokens", self.max_tokens, 1, limits.EXTRA_TOKENS)
            limits.product("beam × max tokens", self.beam, self.max_tokens, limits.HYPOTHESIS_TOKENS)
        limits.product("beam × max extra", self.beam, self.max_extra, limits.HYPOTHESIS_TOKENS)
        if self.stopping not in ("exact", "first", "huggingface"):
            raise RegardError(f"stopping {self.stopping!r}: expected exact, first or huggingface")
        limits.whole("no-repeat n-gram", self.no_repeat_ngram, 0, limits.LENGTH)

    @classmethod
    def from_config(cls, config: DecodingConfig) -> Search:
        return cls(
            beam=config.beam,
            length_penalty=LengthPenalty.parse(config.length_penalty),
            max_extra=config.max_extra,
            n_best=config.n_best,
            stopping=config.stopping,
        )

    @property
    def rows(self) -> int:
        """How many hypotheses N of a sentence are alive."""
        return self.beam

    @property
    def kept(self) -> int:
        """How many finished hypotheses of a sentence are kept."""
        return self.n_best if self.stopping == "exact" else self.beam

    @property
    def ends_at_limit(self) -> bool:
        """Whether only an end token may be the last of the longest output."""
        return self.stopping == "exact"


class Ends(NamedTuple):
    """The tokens that end an output: none, one or several. ``tensor`` [E] holds the same ids on the device."""

    ids: tuple[int, ...]
    tensor: Tensor

    @classmethod
    def of(cls, ids: Sequence[int], device: torch.device) -> Ends:
        ids = tuple(dict.fromkeys(ids))
        return cls(ids, torch.tensor(ids, dtype=torch.int64, device=device))

    def among(self, tokens: Tensor) -> Tensor:
        """Which tokens [*] end an output."""
        return tokens == self.tensor if len(self.ids) == 1 else (tokens[..., None] == self.tensor).any(-1)

    def width(self, beam: int) -> int:
        """How many candidates a sentence has: Hugging Face's number."""
        return max(2, 1 + len(self.ids)) * beam

    def depth(self, beam: int) -> int:
        """How many continuations of each hypothesis are ranked.

        N + E are enough for beam search: the first N + E of a hypothesis hold N that do not end the sentence, so that
        what comes after them can neither live on nor be among the first N candidates. Greedy search wants the best.
        """
        return beam + len(self.ids) if beam > 1 else 1


class Candidates(NamedTuple):
    """The best continuations of each sentence, best first; C = 2N, or (1 + E) N with E > 1 end tokens."""

    scores: Tensor  # [B, C] sums of log-probabilities; -inf where there is none
    parents: Tensor  # [B, C] the hypothesis that is continued
    tokens: Tensor  # [B, C]


def candidates(scores: Tensor, values: Tensor, tokens: Tensor, count: int) -> Candidates:
    """The ``count`` best continuations.

    scores [B, R] of the R hypotheses; values [B, R, k], tokens [B, R, k]: log-probabilities and ids of the k best
    continuations of each (``Ends.depth``).
    """
    batch, rows, k = values.shape
    total = (scores[:, :, None] + values).reshape(batch, rows * k)
    if rows * k < count:  # a vocabulary smaller than the beam, or the first step of a wide one
        total = torch.nn.functional.pad(total, (0, count - rows * k), value=-torch.inf)
        tokens = torch.nn.functional.pad(tokens.reshape(batch, rows * k), (0, count - rows * k))
    highest, index = total.topk(count, dim=1)
    parents = index.div(k, rounding_mode="floor").clamp_(max=rows - 1)
    return Candidates(highest, parents, tokens.reshape(batch, -1).gather(1, index))


class Survivors(NamedTuple):
    """The N hypotheses that live on, best first, each [B, N]."""

    scores: Tensor
    parents: Tensor
    tokens: Tensor


def survivors(found: Candidates, beam: int, ended: Tensor) -> Survivors:
    """The first N candidates that do not end the sentence; ``ended`` [B, C] says which do."""
    scores, index = found.scores.masked_fill(ended, -torch.inf).topk(beam, dim=1)
    return Survivors(scores, found.parents.gather(1, index), found.tokens.gather(1, index))
