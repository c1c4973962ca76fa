"""Scores of texts and of labels; no model."""

from regard.evaluation.texts import (
    Bucket,
    Comparison,
    References,
    Score,
    Scores,
    Sentence,
    bleu,
    by_length,
    corpus_scores,
    language,
    moses_tokenizer,
    paired_bootstrap,
    perplexity,
    published_bleu,
    tokenizer_for,
    worst,
)

__all__ = [
    "Bucket",
    "Comparison",
    "References",
    "Score",
    "Scores",
    "Sentence",
    "bleu",
    "by_length",
    "corpus_scores",
    "language",
    "moses_tokenizer",
    "paired_bootstrap",
    "perplexity",
    "published_bleu",
    "tokenizer_for",
    "worst",
]
