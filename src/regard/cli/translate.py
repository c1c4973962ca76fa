"""``regard translate``: a filter. Line N of the output belongs to line N of the input."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

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
    check_search,
    open_translator,
    print_json,
    show,
    warn_of_line,
)

if TYPE_CHECKING:
    from regard.pipelines import Translation


def translate(
    model: Model,
    file: Annotated[str, typer.Argument(metavar="[FILE]", help="Text, a sentence a line; - is standard input.")] = "-",
    to: Annotated[
        str, typer.Option("--to", metavar="LANG", help="The language to translate into; default: the model's own.")
    ] = "",
    beam: Beam = 5,
    length_penalty: LengthPenalty = None,
    n_best: Annotated[
        int,
        typer.Option(min=1, max=limits.BEAM, help="Different texts, at most beam: 'N ||| text ||| score', N from 0."),
    ] = 1,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=limits.EXTRA_TOKENS,
            help="Most subwords of a translation, end token counted; default: by its source.",
        ),
    ] = None,
    scores: Annotated[bool, typer.Option("--scores", help="Add ' ||| score', the sum of log-probabilities.")] = False,
    alignments: Annotated[
        bool, typer.Option("--alignments", help="Add ' ||| 0-0 1-2', source-target pairs of subwords from 0.")
    ] = False,
    batch_tokens: BatchTokens = 4096,
    replace: Annotated[
        bool, typer.Option("--replace-invalid", help="Translate bytes that are not UTF-8 as U+FFFD; default: an error.")
    ] = False,
    backend: Backend = "regard",
    shortlist: Shortlist = "",
    device: Device = "auto",
    dtype: Dtype = "auto",
    threads: Threads = 0,
    json: Json = False,
) -> None:
    """Translate a file or standard input line by line; empty lines stay empty.

    Long text is split, translated and rejoined, with a remark on standard error. Lines are counted from 1.

    Example: echo 我爱机器学习 | regard translate zh-en --beam 5
    """
    from regard.data.corpus import open_lines, read_lines
    from regard.text.marks import chosen_languages

    check_input(file)
    check_search(backend, shortlist, beam, n_best, length_penalty)
    lines = open_lines(file) if replace else (text for text, _ in read_lines(file))
    translator = open_translator(model, device, dtype, threads, backend, shortlist, only_decoding=not alignments)
    chosen_languages(translator.settings, to, 1)  # an unknown one is refused though there may be no text
    # Typed lines are translated one at a time.
    typed = file == "-" and sys.stdin.isatty()
    results = translator.stream(
        lines,
        language=to,
        max_tokens=max_tokens,
        beam=beam,
        n_best=n_best,
        length_penalty=length_penalty,
        batch_tokens=batch_tokens,
        alignments=alignments,
        warn=warn_of_line,
        ahead=1 if typed else 1024,
    )
    for number, result in enumerate(_counted(results, file)):
        if json:
            print_json(describe(result, alignments=alignments))
        else:
            for line in plain(number, result, n_best=n_best, scores=scores, alignments=alignments):
                show(line)
        if typed:
            sys.stdout.flush()


def plain(number: int, result: Translation, *, n_best: int, scores: bool, alignments: bool) -> Iterator[str]:
    """The lines of one result: text, and if wanted score and alignment, separated by ' ||| '."""
    for choice in [result, *result.alternatives][:n_best]:
        parts = [choice.text]
        if n_best > 1:
            parts.insert(0, str(number))
        if scores or n_best > 1:
            parts.append(f"{choice.score:.4f}")
        if alignments:
            parts.append(_links(choice))
        yield " ||| ".join(parts)


def describe(result: Translation, *, alignments: bool) -> dict[str, Any]:
    """One result as JSON values."""
    described: dict[str, Any] = {
        "text": result.text,
        "score": result.score,
        "normalized": result.normalized,
        "tokens": list(result.tokens),
        "source_tokens": list(result.source_tokens),
    }
    if alignments:
        described["alignment"] = _links(result)
    if result.alternatives:
        described["alternatives"] = [
            {"text": other.text, "score": other.score, "tokens": list(other.tokens)} for other in result.alternatives
        ]
    return described


def _links(result: Translation) -> str:
    """The alignment in Pharaoh's notation; only the best translation has one."""
    from regard.decoding.alignments import pharaoh

    return "" if result.alignment is None else pharaoh(result.alignment)


def _counted(results: Iterable[Translation], file: str) -> Iterator[Translation]:
    """Show the progress of a file on a terminal, if the results go elsewhere."""
    if not sys.stderr.isatty() or sys.stdout.isatty() or file == "-":
        yield from results
        return
    started = said = time.monotonic()
    count = 0
    for count, result in enumerate(results, 1):
        yield result
        now = time.monotonic()
        if now - said > 0.5:
            said = now
            print(f"\r{count:,} lines, {count / (now - started):,.0f} a second", end="", file=sys.stderr, flush=True)
    if said != started:
        print(f"\r{count:,} lines in {time.monotonic() - started:.0f} s{' ' * 20}", file=sys.stderr)
