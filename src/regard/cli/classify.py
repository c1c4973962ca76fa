"""``regard classify``: a filter. Line N of the output is the label of line N of the input."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from regard.cli.common import BatchTokens, Device, Json, Model, Threads, one_line, print_json, read_parallel, show
from regard.cli.lines import Dtype, File, Line, Text, check_lines, is_typed, lines_of, open_pipeline, results
from regard.errors import RegardError

if TYPE_CHECKING:
    from regard.pipelines.classifier import Classification, Classifier
    from regard.text.parts import Warn


def classify(
    model: Model,
    file: File = "-",
    text: Text = None,
    pair: Annotated[
        str | None,
        typer.Option(help="For a model of pairs: the second text (with --text), or a file of them, line by line."),
    ] = None,
    scores: Annotated[
        bool, typer.Option("--scores", help="Print all labels with their probabilities, the best first.")
    ] = False,
    batch_tokens: BatchTokens = 4096,
    device: Device = "auto",
    dtype: Dtype = "auto",
    threads: Threads = 0,
    json: Json = False,
) -> None:
    """Classify the lines of a file or of standard input: a label a line; empty lines stay empty.

    A text that is longer than the model has positions is cut at its end, with a remark on standard error.

    Example: echo "A film to remember." | regard classify runs/reviews --scores
    """
    check_lines(file, text)
    lines, seconds = _texts(file, text, pair)
    classifier: Classifier = open_pipeline(model, "classification", device, dtype, threads)

    def run(some: list[Line], warn: Warn) -> list[Classification]:
        texts = [line.text for line in some]
        others = None if seconds is None else [seconds[line.number] for line in some]
        return classifier.classify(texts, others, batch_tokens=batch_tokens, warn=warn)

    for _, found in results(lines, run, is_typed(file, text)):
        if json:
            print_json(describe(found))
        else:
            show(plain(found, scores))


def plain(found: Classification | None, scores: bool) -> str:
    """A result as a line: its label, or all labels with their probabilities, separated by tabs."""
    if found is None:
        return ""
    if not scores:
        return one_line(found.label)
    return "\t".join(f"{one_line(label)}\t{probability:.4f}" for label, probability in found.labels)


def describe(found: Classification | None) -> dict[str, Any]:
    """A result as JSON values; nulls for a line of white space."""
    if found is None:
        return {"label": None, "probability": None, "labels": []}
    return {
        "label": found.label,
        "probability": found.probability,
        "labels": [one._asdict() for one in found.labels],
    }


def _texts(file: str, text: str | None, pair: str | None) -> tuple[Iterator[Line], list[str] | None]:
    """The texts, and the second texts of pairs."""
    if pair is None:
        return lines_of(file, text), None
    if text is not None:
        return lines_of(file, text), [next(lines_of(file, pair)).text]
    if file == "-" == pair:
        raise RegardError("--pair - and FILE -: both are standard input: expected a file for one of them")
    firsts, seconds = read_parallel(file, pair)
    return (Line(line, f"{file}:{number + 1}", number) for number, line in enumerate(firsts)), seconds
