"""``regard tag``: words with their tags, as CoNLL's files have them, or entities with their characters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from regard.cli.common import BatchTokens, Device, Json, Model, Threads, one_line, print_json, show
from regard.cli.lines import Dtype, File, Line, Text, check_lines, is_typed, lines_of, open_pipeline, results

if TYPE_CHECKING:
    from regard.pipelines.tagger import Tagged, Tagger
    from regard.text.parts import Warn


def tag(
    model: Model,
    file: File = "-",
    text: Text = None,
    words: Annotated[
        bool, typer.Option("--words", help="The text is cut into words already: they stand between spaces.")
    ] = False,
    batch_tokens: BatchTokens = 4096,
    device: Device = "auto",
    dtype: Dtype = "auto",
    threads: Threads = 0,
    json: Json = False,
) -> None:
    """Tag the words of each line: a word, a tab and its tag a line, and an empty line after each line of the input.

    With --json an object a line: words, and entities with their first character, counted from 0, and the one after
    their last. A text that is longer than the model has positions is read in overlapping parts, with a remark.

    Example: regard tag ./ner --text "Ada Lovelace lived in London." --json
    """
    check_lines(file, text)
    tagger: Tagger = open_pipeline(model, "tagging", device, dtype, threads)

    def run(some: list[Line], warn: Warn) -> list[Tagged]:
        texts = [line.text.split() if words else line.text for line in some]
        return tagger.tag(texts, batch_tokens=batch_tokens, warn=warn)

    for _, found in results(lines_of(file, text), run, is_typed(file, text)):
        tagged = () if found is None else found.words
        if json:
            entities = () if found is None else found.entities
            print_json({"words": [one._asdict() for one in tagged], "entities": [one._asdict() for one in entities]})
            continue
        for one in tagged:
            show(f"{one.word}\t{one_line(one.tag)}")
        if text is None:
            print()
