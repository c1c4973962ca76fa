"""``regard shortlist``: learns by which target subwords a source subword is translated; others get no score."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from regard import limits
from regard.cli.common import Json, Model, files_of_model, print_json, read_parallel, show, talk
from regard.errors import RegardError

HELD_OUT = 0.01  # share of the pairs, at most MOST, on which the lists are measured
MOST = 1000
LIKELY = 1000  # most target subwords for each source subword: columns of the table


def shortlist(
    model: Model,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="File to write.")],
    source: Annotated[str, typer.Option("--source", help="Training sentences, one a line.")],
    target: Annotated[str, typer.Option("--target", help="Their translations, one a line.")],
    common: Annotated[
        int, typer.Option(min=1, max=limits.VOCABULARY, help="The commonest subwords, listed for every sentence.")
    ] = 100,
    likely: Annotated[int, typer.Option(min=1, max=LIKELY, help="The likeliest for each subword of the source.")] = 20,
    json: Json = False,
) -> None:
    """Learn a shortlist from parallel text (IBM Model 1), for regard translate --shortlist: faster on a CPU.

    A hundredth of the pairs, at most 1,000, are held out to measure how long the lists are and what they leave out.

    Example: regard shortlist runs/zh-en zh-en.shortlist --source train.zh --target train.en
    """
    from regard import directory
    from regard.decoding.shortlist import learn
    from regard.outputs import check_output

    check_output(out, (source, target, *files_of_model(model)))
    texts = read_parallel(source, target)
    loaded = directory.load(model)
    tokenizer, target_tokenizer = loaded.text[1:]
    pairs = zip(tokenizer.encode_batch(texts[0]), target_tokenizer.encode_batch(texts[1]), strict=True)
    ids = [pair for pair in pairs if all(pair)]
    step = max(2, len(ids) // max(1, min(MOST, int(HELD_OUT * len(ids)))))
    held_out, rest = ids[::step], [pair for number, pair in enumerate(ids) if number % step]
    if not rest:
        raise RegardError(f"{source}: nothing to learn from; expected at least two pairs that are not empty")
    made = learn([one for one, _ in rest], [other for _, other in rest], loaded, common=common, likely=likely)
    size = target_tokenizer.size
    allowed = made.allowed([one for one, _ in held_out], size).numpy()
    length = float(allowed.sum(1).mean())
    found = sum(int(row[other].sum()) for row, (_, other) in zip(allowed, held_out, strict=True))
    share = found / sum(len(other) for _, other in held_out)
    talk(
        f"learnt from {len(rest):,} pairs; of {len(held_out):,} others: {length:,.0f} of {size:,} subwords a sentence, "
        f"which are {share:.2%} of their translations'"
    )
    made.write(out)
    if json:
        print_json({"file": str(out), "pairs": len(rest), "held_out": len(held_out), "length": length, "share": share})
    else:
        show(str(out))
