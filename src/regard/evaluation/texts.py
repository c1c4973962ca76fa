"""Scores of translations: sacreBLEU and chrF with their signatures, comparisons, and analyses by sentence.

BLEU is sacreBLEU's on raw, cased text and references, with the tokenizer of the target language, as its signature says.
The published protocol of Multi30k (lowercased, Moses-tokenized) is labelled and printed beside it. References are one
text a sentence, or several such sets, which all count.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from regard.errors import RegardError

#: One set of references, a text a sentence; or several such sets.
References = Sequence[str] | Sequence[Sequence[str]]


class Score(NamedTuple):
    """A corpus score, and the signature with which it can be computed again."""

    score: float
    signature: str


@dataclass(frozen=True)
class Scores:
    """The scores of one output. ``length_ratio`` is its length over that of the reference (of several, the nearest)."""

    bleu: float
    bleu_signature: str
    chrf: float
    chrf_signature: str
    sentences: int
    length_ratio: float

    def lines(self) -> list[str]:
        """The scores as lines of text."""
        return [
            f"BLEU {self.bleu:.2f}   {self.bleu_signature}",
            f"chrF {self.chrf:.2f}   {self.chrf_signature}",
            f"length of the output: {self.length_ratio:.3f} of the reference's; {self.sentences} sentences",
        ]


@dataclass(frozen=True)
class Comparison:
    """Two outputs by paired bootstrap (Koehn 2004): ``p`` is the chance of such a difference between equal systems.

    ``low`` and ``high`` bound the middle 95 % of b − a over the resamplings.
    """

    metric: str
    a: float
    b: float
    p: float
    low: float
    high: float
    signature: str

    @property
    def line(self) -> str:
        """The comparison as a line of text."""
        verdict = "significant at 0.05" if self.p < 0.05 else "not significant"
        return (
            f"{self.metric} {self.a:.2f} → {self.b:.2f} ({self.b - self.a:+.2f}, 95 % of resamplings "
            f"{self.low:+.2f} … {self.high:+.2f}, p = {self.p:.3f}: {verdict})   {self.signature}"
        )


class Bucket(NamedTuple):
    """Sentences of similar length: ``low`` ≤ words of the reference ≤ ``high``."""

    low: int
    high: int
    sentences: int
    bleu: float
    length_ratio: float


class Sentence(NamedTuple):
    """One sentence and its chrF; ``others`` are its references in further sets."""

    number: int  # counted from 0
    chrf: float
    hypothesis: str
    reference: str
    others: tuple[str, ...] = ()


def language(code: str) -> str:
    """The language of a code: "zh" for "zh-CN", "zh_Hans" and "ZH"; Cantonese and Wu are scored as zh."""
    base = re.split("[-_]", code.strip().lower())[0]
    return {"cmn": "zh", "yue": "zh", "wuu": "zh", "zho": "zh", "chi": "zh", "jpn": "ja", "kor": "ko"}.get(base, base)


@cache
def tokenizer_for(code: str) -> str:
    """sacreBLEU's tokenizer for a target language: zh; ja-mecab and ko-mecab if MeCab is installed, else char; 13a.

    The default, 13a, would make a Chinese sentence one word.
    """
    name = {"zh": "zh", "ja": "ja-mecab", "ko": "ko-mecab", "th": "char", "lo": "char", "km": "char", "my": "char"}.get(
        language(code), "13a"
    )
    if name.endswith("mecab"):
        try:
            BLEU(tokenize=name)
        except (ImportError, RuntimeError):  # MeCab or its dictionary is not installed
            return "char"
    return name


def corpus_scores(hypotheses: Sequence[str], references: References, target_language: str) -> Scores:
    """Cased, detokenized BLEU and chrF."""
    sets = _sets(hypotheses, references)
    bleu, chrf = BLEU(tokenize=tokenizer_for(target_language)), CHRF()
    found = bleu.corpus_score(hypotheses, sets)
    return Scores(
        bleu=found.score,
        bleu_signature=str(bleu.get_signature()),
        chrf=chrf.corpus_score(hypotheses, sets).score,
        chrf_signature=str(chrf.get_signature()),
        sentences=len(hypotheses),
        length_ratio=found.sys_len / max(1, found.ref_len),
    )


def bleu(hypotheses: Sequence[str], references: References, target_language: str) -> float:
    """The BLEU of ``corpus_scores`` alone, for validation."""
    sets = _sets(hypotheses, references)
    return float(BLEU(tokenize=tokenizer_for(target_language)).corpus_score(hypotheses, sets).score)


def moses_tokenizer() -> Any:
    """The class of the published protocol's tokenizer; an error if its package is not installed."""
    try:
        from sacremoses import MosesTokenizer
    except ImportError:
        raise RegardError("the published protocol needs sacremoses: pip install sacremoses") from None
    return MosesTokenizer


def published_bleu(hypotheses: Sequence[str], references: References, target_language: str) -> Score:
    """The published protocol of Multi30k: both sides lowercased and Moses-tokenized, BLEU on these tokens.

    For comparison with papers only: it is not the BLEU of ``corpus_scores``.
    """
    sets = _sets(hypotheses, references)
    moses = moses_tokenizer()(lang=language(target_language))

    def tokenized(lines: Sequence[str]) -> list[str]:
        return [moses.tokenize(line.lower(), return_str=True, escape=False) for line in lines]

    metric = BLEU(tokenize="none", force=True)
    score = metric.corpus_score(tokenized(hypotheses), [tokenized(lines) for lines in sets]).score
    return Score(float(score), f"{metric.get_signature()} (published protocol: lowercased, Moses-tokenized)")


def paired_bootstrap(
    a: Sequence[str],
    b: Sequence[str],
    references: References,
    target_language: str,
    *,
    metric: str = "bleu",
    samples: int = 1000,
    seed: int = 12345,
) -> Comparison:
    """Compare outputs a and b on the same resamplings of the sentences, drawn from ``seed``.

    Scores and p equal those of sacreBLEU's paired bootstrap with its default seed, except for two equal outputs, whose
    difference sacreBLEU calls significant.
    """
    import numpy as np

    sets = _sets(a, references)
    _sets(b, references)
    if metric not in ("bleu", "chrf"):
        raise RegardError(f"metric {metric!r}: expected bleu or chrf")
    scorer: Any = BLEU(tokenize=tokenizer_for(target_language)) if metric == "bleu" else CHRF()
    # A row of counts a sentence: the score of a resampling is the score of the sum of its rows.
    rows = [np.array(scorer._extract_corpus_statistics(x, sets), dtype=np.float64) for x in (a, b)]

    def score(counts: Any) -> float:
        return float(scorer._compute_score_from_stats(counts).score)

    real_a, real_b = (score(counts.sum(0)) for counts in rows)
    drawn = np.random.default_rng(seed).choice(len(a), size=(samples, len(a)), replace=True)
    scores_a, scores_b = (np.array([score(counts[chosen].sum(0)) for chosen in drawn]) for counts in rows)
    size = np.abs(scores_b - scores_a)
    p = (int((size - size.mean() > abs(real_b - real_a)).sum()) + 1) / (samples + 1) if size.any() else 1.0
    low, high = np.quantile(scores_b - scores_a, [0.025, 0.975])
    name = "BLEU" if metric == "bleu" else "chrF"
    signature = f"{scorer.get_signature()}|bs:{samples}|seed:{seed}"
    return Comparison(name, real_a, real_b, p, float(low), float(high), signature)


def by_length(
    hypotheses: Sequence[str],
    references: References,
    target_language: str,
    edges: Sequence[int] = (5, 10, 15, 20, 30, 40, 60),
) -> list[Bucket]:
    """BLEU by length of the first reference, in words of the scorer's tokenizer: at most 5, 10, …, and longer."""
    sets = _sets(hypotheses, references)
    metric = BLEU(tokenize=tokenizer_for(target_language), effective_order=False)
    cut: Callable[[str], str] = metric.tokenizer
    lengths = [len(cut(reference).split()) for reference in sets[0]]
    buckets = []
    for low, high in zip((0, *(edge + 1 for edge in edges)), (*edges, max([*lengths, *edges])), strict=True):
        chosen = [i for i, length in enumerate(lengths) if low <= length <= high]
        if chosen:
            found = metric.corpus_score([hypotheses[i] for i in chosen], [[lines[i] for i in chosen] for lines in sets])
            buckets.append(Bucket(low, high, len(chosen), found.score, found.sys_len / max(1, found.ref_len)))
    return buckets


def worst(hypotheses: Sequence[str], references: References, count: int = 10) -> list[Sentence]:
    """The sentences with the lowest chrF, worst first; equal scores in the order of the text."""
    sets = _sets(hypotheses, references)
    metric = CHRF()
    scored = [
        Sentence(number, float(metric.sentence_score(hypothesis, texts).score), hypothesis, texts[0], tuple(texts[1:]))
        for number, (hypothesis, *texts) in enumerate(zip(hypotheses, *sets, strict=True))
    ]
    return sorted(scored, key=lambda sentence: (sentence.chrf, sentence.number))[:count]


def perplexity(token_scores: Iterable[Sequence[float]]) -> float:
    """exp of the mean negative log-probability of all target tokens, end marks included.

    >>> round(perplexity([[-1.0, -3.0], [-2.0]]), 4)
    7.3891
    """
    total, count = 0.0, 0
    for scores in token_scores:
        total += math.fsum(scores)
        count += len(scores)
    if not count:
        raise RegardError("perplexity of no tokens: expected at least one sentence")
    mean = -total / count
    return math.exp(mean) if mean < 700 else math.inf


def _sets(hypotheses: Sequence[str], references: References) -> list[Sequence[str]]:
    """The references as sets; an error unless each has one for every translation."""
    one = all(isinstance(lines, str) for lines in references)
    sets: list[Any] = [references] if one else list(references)
    for number, lines in enumerate(sets, 1):
        if len(hypotheses) != len(lines):
            which = f" in set {number}" if len(sets) > 1 else ""
            raise RegardError(
                f"{len(hypotheses)} translations and {len(lines)} references{which}: expected one reference a "
                "translation"
            )
    if not hypotheses:
        raise RegardError("nothing to score: expected at least one sentence")
    return sets
