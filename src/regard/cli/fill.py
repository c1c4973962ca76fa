"""``regard fill``: the words that a masked language model puts in place of masks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from regard import limits
from regard.cli.common import BatchTokens, Device, Json, Model, Threads, one_line, print_json, show
from regard.cli.lines import Dtype, File, Line, Text, check_lines, is_typed, lines_of, open_pipeline, results
from regard.errors import RegardError

if TYPE_CHECKING:
    from regard.pipelines.filler import Filled, Filler
    from regard.text.parts import Warn


def fill(
    model: Model,
    file: File = "-",
    text: Text = None,
    k: Annotated[
        int, typer.Option("-k", min=1, max=limits.VOCABULARY, help="How many words for each mask, the best first.")
    ] = 5,
    batch_tokens: BatchTokens = 4096,
    device: Device = "auto",
    dtype: Dtype = "auto",
    threads: Threads = 0,
    json: Json = False,
) -> None:
    """Fill in the masks of each line: for each mask k lines with a probability, a word and the text with the word.

    The three are separated by tabs; of a file, an empty line follows the words of each line. A mask is written as
    \\[MASK], or as the model's own mask token. With --json an object a line, which also has the text with the best word
    in every mask.

    Example: regard fill ./bert --text "the capital of france is \\[MASK]." -k 3
    """
    check_lines(file, text)
    filler: Filler = open_pipeline(model, "masked", device, dtype, threads)

    def run(some: list[Line], warn: Warn) -> list[Filled]:
        return filler.fill([line.text for line in some], k, batch_tokens=batch_tokens, warn=warn)

    for _, found in results(_with_masks(lines_of(file, text), filler), run, is_typed(file, text)):
        masks = () if found is None else found.masks
        if json:
            filled = "" if found is None else found.text
            print_json({"text": filled, "masks": [[word._asdict() for word in of_mask] for of_mask in masks]})
            continue
        for word in (word for of_mask in masks for word in of_mask):
            show(f"{word.probability:.4f}\t{one_line(word.word)}\t{one_line(word.text)}")
        if text is None:
            print()


def _with_masks(lines: Iterator[Line], filler: Filler) -> Iterator[Line]:
    """The lines, one by one; an error that names the first one with text and without a mask."""
    for line in lines:
        if line.text.strip() and not filler.has_mask(line.text):
            own = "" if filler.mask_token == "[MASK]" else f" or {filler.mask_token}"
            raise RegardError(f"{line.where}: no mask in it: expected [MASK]{own} in place of the word to fill in")
        yield line
