"""The results of a translator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from regard.decoding.alignments import diagonal
from regard.decoding.nbest import Choice
from regard.decoding.ranking import LengthPenalty
from regard.text.parts import Part
from regard.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Translation:
    """One translation.

    ``score`` is the sum of the log-probabilities of its tokens and end marks, ``normalized`` that sum divided by the
    length penalty, by which translations are ranked; the tokens of a given prefix count in neither. ``alignment``
    [T, S], if asked for, holds the weights with which ``tokens`` attended to ``source_tokens``. ``alternatives`` are
    the rest of the n best: other texts, fewer where no more are found.
    """

    text: str
    tokens: list[str]
    score: float
    normalized: float
    source_tokens: list[str]
    alignment: NDArray[np.float32] | None = None
    alternatives: list[Translation] = field(default_factory=list)


@dataclass(frozen=True)
class TextScore:
    """``score`` of a given translation is the sum of ``token_scores``: those of ``tokens`` and of the end mark."""

    score: float
    token_scores: list[float]
    tokens: list[str]


def joined(
    parts: Sequence[Part],
    ways: Sequence[Sequence[Choice]],
    penalty: LengthPenalty,
    weights: Sequence[NDArray[np.float32]] | None,
    source: Tokenizer,
    target: Tokenizer,
    given: int = 0,
) -> Translation:
    """One translation of a text from the choices of its parts; the first ``given`` tokens are not scored.

    The other ways to choose are its alternatives, best first; ``weights`` are the alignments of the parts.
    """
    source_tokens = source.tokens([i for part in parts for i in part.ids])
    found = []
    for chosen in ways:
        text = "".join(one.text + part.after for one, part in zip(chosen, parts, strict=True))
        score = sum(one.hypothesis.score for one in chosen)
        length = sum(one.hypothesis.length for one in chosen) - given
        normalized = penalty.apply(score, max(1, length))
        tokens = target.tokens([i for one in chosen for i in one.hypothesis.ids])
        found.append(Translation(text, tokens, score, normalized, source_tokens))
    alignment = None if weights is None else diagonal(list(weights))
    others = sorted(found[1:], key=lambda one: -one.normalized)
    return replace(found[0], alignment=alignment, alternatives=others)
