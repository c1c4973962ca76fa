"""``regard evaluate``: the scores of a model on a test set, by the model's task."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from regard import limits
from regard.cli.common import (
    Backend,
    BatchTokens,
    Beam,
    Device,
    Dtype,
    Json,
    LengthPenalty,
    Model,
    Shortlist,
    Threads,
    check_input,
)
from regard.errors import RegardError

# The flags that are read for one kind of test set alone; any other is refused, since it would be ignored.
OF_TEXTS = ("compare", "by_length", "published", "output", "beam", "length_penalty", "backend", "shortlist")
OF_FILES = ("text", "pair", "label")


def evaluate(
    context: typer.Context,
    model: Model,
    file: Annotated[
        str,
        typer.Argument(
            metavar="[FILE]", help="Labelled texts (.tsv, .csv, .jsonl) for a classifier; a text for a language model."
        ),
    ] = "",
    source: Annotated[str, typer.Option("--source", help="Test sentences of a translation, one a line.")] = "",
    reference: Annotated[
        list[str] | None,
        typer.Option("--reference", help="Their translations, raw and untouched; give several if you have."),
    ] = None,
    text: Annotated[str, typer.Option(help="FILE's column or key of the texts; default: as in training.")] = "",
    pair: Annotated[str, typer.Option(help="FILE's column or key of the second texts.")] = "",
    label: Annotated[str, typer.Option(help="FILE's column or key of the labels.")] = "",
    compare: Annotated[
        str, typer.Option(help="Another model, or a file of its translations: paired bootstrap of the two.")
    ] = "",
    worst: Annotated[
        int,
        typer.Option(
            min=0,
            max=limits.ANY_NUMBER,
            help="Show so many of the worst sentences by chrF, or of the most confident wrong labels.",
        ),
    ] = 0,
    by_length: Annotated[bool, typer.Option("--by-length", help="BLEU by length of the reference.")] = False,
    published: Annotated[
        bool, typer.Option("--published", help="Add lowercased, Moses-tokenized BLEU, as older papers print it.")
    ] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the translations to this file.")] = None,
    beam: Beam = 5,
    length_penalty: LengthPenalty = None,
    batch_tokens: BatchTokens = 4096,
    backend: Backend = "regard",
    shortlist: Shortlist = "",
    device: Device = "auto",
    dtype: Dtype = "auto",
    threads: Threads = 0,
    json: Json = False,
) -> None:
    """Print a model's scores on a test set.

    A translation model translates --source: sacreBLEU and chrF with their signatures, and the reference's perplexity.
    BLEU is cased, on raw text, with sacreBLEU's zh tokenizer for Chinese targets and 13a for others. A classifier
    labels FILE: accuracy with its 95 % interval, F1 and the confusion matrix. A language model predicts FILE: loss,
    perplexity, bits a character.

    Example: regard evaluate runs/zh-en --source test.zh --reference test.en --compare zh-en --worst 5
    """
    if file:
        from regard.cli.evaluate_files import evaluate_file

        _refuse(context, ("source", "reference", *OF_TEXTS), "a FILE")
        check_input(file)
        keys = {"text": text, "pair": pair, "label": label}
        evaluate_file(model, file, keys, worst, batch_tokens, device, dtype, threads, json)
        return
    from regard.cli.evaluate_texts import evaluate_texts

    _refuse(context, OF_FILES, "--source and --reference")
    if not source or not reference:
        raise RegardError(
            "nothing to evaluate on: expected --source FILE and --reference FILE for a translation model, or one FILE "
            "for another (regard evaluate --help)"
        )
    evaluate_texts(
        model,
        source,
        reference,
        compare=compare,
        worst=worst,
        by_length=by_length,
        published=published,
        output=output,
        beam=beam,
        length_penalty=length_penalty,
        batch_tokens=batch_tokens,
        backend=backend,
        shortlist=shortlist,
        device=device,
        dtype=dtype,
        threads=threads,
        json=json,
    )


def _refuse(context: typer.Context, names: tuple[str, ...], beside: str) -> None:
    """Raise if one of these flags was typed."""
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise RegardError(f"--{name.replace('_', '-')} means nothing beside {beside} (regard evaluate --help)")
