"""``regard score``: the log-probabilities that a model gives to translations."""

from __future__ import annotations

import math
from typing import Annotated

import typer

from regard.cli.common import (
    BatchTokens,
    Device,
    Dtype,
    Json,
    Model,
    Threads,
    open_translator,
    print_json,
    read_parallel,
    show,
    talk,
)


def score(
    model: Model,
    source: Annotated[str, typer.Option("--source", help="Sentences, one a line.")],
    target: Annotated[str, typer.Option("--target", help="Their translations, one a line.")],
    tokens: Annotated[bool, typer.Option("--tokens", help="Add each subword with its own log-probability.")] = False,
    batch_tokens: BatchTokens = 4096,
    device: Device = "auto",
    dtype: Dtype = "auto",
    threads: Threads = 0,
    json: Json = False,
) -> None:
    """Print a log-probability a line: the natural logarithm, summed over the translation's subwords and its end mark.

    The perplexity a subword of the whole corpus goes to standard error.

    Example: regard score zh-en --source test.zh --target test.en
    """
    sources, targets = read_parallel(source, target)
    translator = open_translator(model, device, dtype, threads)
    found = translator.score(sources, targets, batch_tokens=batch_tokens)
    for one in found:
        if json:
            described = {"score": one.score, "tokens": one.tokens, "token_scores": one.token_scores}
            print_json(described)
        elif tokens:
            names = [*one.tokens, "</s>"]
            pairs = [f"{name} {value:.4f}" for name, value in zip(names, one.token_scores, strict=True)]
            show("\t".join([f"{one.score:.4f}", *pairs]))
        else:
            print(f"{one.score:.4f}")
    total, count = math.fsum(one.score for one in found), sum(len(one.token_scores) for one in found)
    talk(f"perplexity {math.exp(min(-total / count, 700.0)):.3f} over {count:,} subwords, end marks included")
