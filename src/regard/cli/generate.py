"""``regard generate``: continues a prompt, as it is produced, or every line of a file."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from regard import limits
from regard.cli.common import (
    BatchTokens,
    Device,
    Dtype,
    Json,
    Model,
    Threads,
    check_input,
    one_line,
    print_json,
    show,
)
from regard.errors import RegardError
from regard.terminal import printable

if TYPE_CHECKING:
    from regard.cli.lines import Line
    from regard.pipelines.generator import Generation, Generator
    from regard.text.parts import Warn

AHEAD = 256  # lines that are continued together


def generate(
    model: Model,
    file: Annotated[
        str | None, typer.Argument(metavar="[FILE]", help="Prompts, one a line; - is standard input.")
    ] = None,
    prompt: Annotated[str, typer.Option("--prompt", "-p", metavar="TEXT", help="The text to continue.")] = "",
    max_tokens: Annotated[int, typer.Option(min=1, max=limits.EXTRA_TOKENS, help="The longest continuation.")] = 256,
    temperature: Annotated[
        float, typer.Option(min=0, max=limits.TEMPERATURE, help="Below 1 likelier, above 1 stranger; 0: the likeliest.")
    ] = 1.0,
    top_k: Annotated[int, typer.Option(min=0, help="Draw among the K likeliest tokens; 0: all.")] = 0,
    top_p: Annotated[float, typer.Option(min=0, max=1, help="Draw among the likeliest, P of the probability.")] = 1,
    min_p: Annotated[float, typer.Option(min=0, max=1, help="Draw among tokens P times as likely as the best.")] = 0,
    beam: Annotated[
        int | None, typer.Option(min=1, max=limits.BEAM, help="Search with so many hypotheses; nothing is drawn.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=limits.SEED, help="Another seed draws another text.")] = 0,
    n: Annotated[int, typer.Option("-n", min=1, max=limits.BEAM, help="Continuations of each prompt.")] = 1,
    stop: Annotated[
        list[str] | None, typer.Option("--stop", metavar="TEXT", help="End before this text; may be repeated.")
    ] = None,
    batch_tokens: BatchTokens = 4096,
    device: Device = "auto",
    dtype: Dtype = "auto",
    threads: Threads = 0,
    json: Json = False,
) -> None:
    """Continue a prompt: its continuation is printed as it is produced, without the prompt.

    With FILE every line is a prompt, and line N of the output continues line N; empty lines stay empty, and line breaks
    in the output are spaces (with --json they are kept). Several continuations of a prompt are lines
    'N ||| text ||| score', N from 0.

    Example: regard generate runs/shakespeare --prompt "ROMEO:"
    """
    if file is not None and prompt:
        raise RegardError(f"{file} and --prompt: expected one of them")
    if file is not None:
        check_input(file)
    options: dict[str, Any] = {
        "max_tokens": max_tokens, "temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p,
        "beam": beam, "seed": seed,
    }  # fmt: skip
    stops = tuple(stop or ())
    if "" in stops:
        raise RegardError("--stop is empty: expected at least one character")
    if beam is not None and n > beam:
        raise RegardError(f"-n {n}: expected at most the width of the beam, which is {beam}")
    generator = open_generator(model, device, dtype, threads)
    if file is not None:
        _lines(generator, file, {**options, "n": n, "stop": stops, "batch_tokens": batch_tokens}, json)
    elif json or n > 1 or beam is not None:
        found = generator.generate([prompt], n=n, stop=stops, batch_tokens=batch_tokens, **options)
        _print(0, found[0], n, json, whole=True)
    else:
        for piece in generator.stream(prompt, stop=stops, **options):
            sys.stdout.write(printable(piece, keep="\t\n") if sys.stdout.isatty() else piece)
            sys.stdout.flush()
        print()


def open_generator(model: str, device: str, dtype: str, threads: int) -> Generator:
    """The language model ready to continue texts."""
    import torch

    from regard.machine import devices
    from regard.machine.memory import keep_memory
    from regard.tasks import load

    if threads:
        torch.set_num_threads(threads)
    found: Generator = load(
        model, devices.device(device), devices.dtype(dtype), task="language_model", only_decoding=True
    )
    keep_memory()  # after loading, so that the memory that reading a model took goes back to the system
    return found


def _lines(generator: Generator, file: str, options: dict[str, Any], json: bool) -> None:
    """Continue every line of a file."""
    from regard.cli.lines import is_typed, lines_of, results

    def run(some: list[Line], warn: Warn) -> list[Generation]:
        return generator.generate([line.text for line in some], numbers=[line.number for line in some], **options)

    for line, one in results(lines_of(file), run, is_typed(file, None), AHEAD):
        _print(line.number, one, options["n"], json, whole=False)


def _print(number: int, found: Generation | None, n: int, json: bool, whole: bool) -> None:
    """Print the continuations of prompt ``number``, None of an empty line; ``whole``: with line breaks."""
    every = [] if found is None else [found, *found.alternatives]
    if json:
        first, *others = [_described(one) for one in every] or [_described(None)]
        print_json({**first, "alternatives": others})
    elif n > 1:
        for text, score in [(one.text, one.score) for one in every] or [("", 0.0)]:
            show(f"{number} ||| {one_line(text)} ||| {score:.4f}")
    elif whole:
        print("".join(printable(one.text, keep="\t\n") if sys.stdout.isatty() else one.text for one in every))
    else:
        show("".join(one_line(one.text) for one in every))


def _described(one: Generation | None) -> dict[str, Any]:
    if one is None:
        return {"text": "", "ids": [], "tokens": [], "score": 0.0, "finish": None}
    return {"text": one.text, "ids": one.ids, "tokens": one.tokens, "score": one.score, "finish": one.finish}
