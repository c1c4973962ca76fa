"""Sampling: each token is drawn from the model's probabilities, after processors have changed them.

A draw is that of the Gumbel-max trick: the token with the largest score + noise, where the noise of a token is
-log(-log u) with u uniform. It falls as the softmax of the scores says (Gumbel 1954; Maddison et al. 2014). The
uniform numbers are a hash of (seed, number of the sentence, sample, step, token). So the draws of a sentence do not
depend on its batch, and rounding changes a draw only where two tokens are nearly as large.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regard import limits
from regard.decoding import processors
from regard.decoding.processors import Processor
from regard.decoding.ranking import LengthPenalty
from regard.decoding.search import Search
from regard.decoding.topk import topk_tokens
from regard.errors import RegardError
from regard.models.contract import Model


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """The options of sampling; by default tokens are drawn as the model says.

    ``temperature`` divides the scores; 0 takes the likeliest token. ``top_k`` (0: all), ``top_p`` (1: all) and
    ``min_p`` (0: all) say which tokens may be drawn, in this order (processors.py). ``n`` samples are drawn of each
    sentence. An output has at most ``max_tokens`` tokens; None: the length of the input and ``max_extra``.

    The score of a sample is its log-probability under the model itself, whatever it was drawn from.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    n: int = 1
    max_extra: int = 50
    max_tokens: int | None = None
    no_repeat_ngram: int = 0

    def __post_init__(self) -> None:
        _between("temperature", self.temperature, 0.0, limits.TEMPERATURE)
        limits.whole("top-k", self.top_k, 0, limits.VOCABULARY)
        _between("top-p", self.top_p, 0.0, 1.0)
        _between("min-p", self.min_p, 0.0, 1.0)
        limits.whole("seed", self.seed, 0, limits.SEED)
        limits.whole("n", self.n, 1, limits.BEAM)
        limits.whole("max extra", self.max_extra, -limits.ANY_NUMBER, limits.EXTRA_TOKENS)
        if self.max_tokens is not None:
            limits.whole("max tokens", self.max_tokens, 1, limits.EXTRA_TOKENS)
            limits.product("n × max tokens", self.n, self.max_tokens, limits.HYPOTHESIS_TOKENS)
        limits.product("n × max extra", self.n, self.max_extra, limits.HYPOTHESIS_TOKENS)
        limits.whole("no-repeat n-gram", self.no_repeat_ngram, 0, limits.LENGTH)

    @property
    def rows(self) -> int:
        """How many samples N of a sentence are drawn side by side."""
        return self.n

    @property
    def kept(self) -> int:
        """How many finished samples of a sentence are kept."""
        return self.n

    @property
    def n_best(self) -> int:
        """How many samples are a sentence's result, in the order of their numbers."""
        return self.n

    @property
    def length_penalty(self) -> LengthPenalty:
        """None: samples are not ranked."""
        return LengthPenalty("power", 0.0)

    @property
    def ends_at_limit(self) -> bool:
        """At the longest output a sample is taken as it is."""
        return False

    def processors(self) -> list[Processor]:
        """What changes the scores of a step, in Hugging Face's order; ids that may not be chosen apart."""
        found: list[Processor] = []
        if self.temperature not in (0.0, 1.0):
            found.append(partial(processors.temperature, value=self.temperature))
        if self.top_k:
            found.append(partial(processors.top_k, k=self.top_k))
        if self.top_p < 1.0:
            found.append(partial(processors.top_p, p=self.top_p))
        if self.min_p > 0.0:
            found.append(partial(processors.min_p, p=self.min_p))
        return found


Strategy = Search | Sampling


def _between(name: str, value: float, least: float, most: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise RegardError(f"{name} {value!r:.40}: expected a number from {least:g} to {most:g}")


def draw(
    model: Model,
    hidden: Tensor,
    sampling: Sampling,
    keys: Tensor,
    *,
    chunk: int = 0,
    suppressed: Tensor | None = None,
    banned: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Draws the tokens after hidden [M, D]: tokens and their log-probabilities under the model, both [M, N].

    keys [M, N]: those of the N draws of each row. ``chunk`` rows of logits are made at a time (0 = all);
    ``suppressed`` [n] and ``banned`` [M, m] as in ``topk_of_logits``.
    """
    nothing = torch.empty(0, dtype=torch.int64, device=hidden.device)
    if sampling.temperature == 0 or sampling.top_k:  # only the top-k can be drawn
        k = 1 if sampling.temperature == 0 else sampling.top_k
        ban = None if banned is None else banned[None]
        topk = topk_tokens(model, hidden[None], k, nothing, chunk=chunk, suppressed=suppressed, banned=ban)
        return _drawn(topk.values[0], topk.values[0], topk.tokens[0], sampling, keys)
    parts = []
    for at in range(0, len(hidden), chunk or len(hidden)):
        part = slice(at, at + chunk if chunk else None)
        logits = model.logits(hidden[part])
        scores = (logits if logits.dtype == torch.float64 else logits.float()).log_softmax(1)
        allowed = scores if suppressed is None else processors.suppress(scores, suppressed)
        allowed = allowed if banned is None else processors.ban(allowed, banned[part])
        tokens = torch.arange(scores.shape[1], device=scores.device).expand_as(scores)
        parts.append(_drawn(allowed, scores, tokens, sampling, keys[part]))
    tokens, values = parts[0] if len(parts) == 1 else (torch.cat(x) for x in zip(*parts, strict=True))
    return tokens, values


def _drawn(allowed: Tensor, scores: Tensor, tokens: Tensor, sampling: Sampling, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens and ``scores`` [M, N], drawn among ``tokens`` [M, C] by the scores ``allowed`` [M, C]."""
    for process in sampling.processors():
        allowed = process(allowed)
    if sampling.temperature == 0:
        which = allowed.argmax(1, keepdim=True).expand(keys.shape)
    else:
        which = torch.stack([(allowed + gumbel(one, tokens)).argmax(1) for one in keys.unbind(1)], 1)
    return tokens.gather(1, which), scores.gather(1, which)


_WORD = 0xFFFFFFFF  # 32 bits


def gumbel(keys: Tensor, tokens: Tensor) -> Tensor:
    """Noise [M, C] of the Gumbel distribution, a function of a key [M] (64 bits) and a token [M, C]."""
    bits = _mixed((tokens + keys[:, None]) & _WORD)
    bits = _mixed(bits ^ (keys[:, None] >> 32 & _WORD))
    uniform = ((bits + 0.5) * 2.0**-32).clamp_(max=1 - 2.0**-24)
    # -log(1 - u) is exponential, and small values of it, which win, are as fine as u itself.
    return uniform.neg_().log1p_().neg_().log_().neg_()


def _mixed(x: Tensor) -> Tensor:
    """A bijection of 32 bits, in numbers of 64 bits (the constants are Wellons' "low bias" ones)."""
    x = (x ^ (x >> 16)) * 0x21F0AAAD & _WORD
    x = (x ^ (x >> 15)) * 0xD35A2D97 & _WORD
    return x ^ (x >> 15)


def keys_of(seed: int, numbers: NDArray[np.int64], samples: int, steps: NDArray[np.int64]) -> NDArray[np.int64]:
    """The keys [B, N] of the draws of sentences of these numbers [B], samples 0 … N - 1, at their steps [B]."""
    one = _hashed(np.array([seed], dtype=np.uint64))  # [1]
    one = _hashed(one ^ numbers.astype(np.uint64))[:, None]  # [B, 1]
    one = _hashed(one ^ np.arange(samples, dtype=np.uint64))  # [B, N]
    return _hashed(one ^ steps.astype(np.uint64)[:, None]).view(np.int64)


def _hashed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A step of splitmix64 (Steele et al. 2014) from each state."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    found: NDArray[np.uint64] = x ^ (x >> np.uint64(31))
    return found
