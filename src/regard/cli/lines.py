"""Lines in, results out: what the verbs classify, tag, fill and generate share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar

import typer

from regard.cli.common import check_input, warn_of_line
from regard.errors import RegardError

if TYPE_CHECKING:
    import torch

    from regard.directory import Loaded
    from regard.text.parts import Warn

Result = TypeVar("Result")

File = Annotated[str, typer.Argument(metavar="[FILE]", help="Texts, one a line; - is standard input.")]
Text = Annotated[str | None, typer.Option("--text", metavar="TEXT", help="One text, in place of a file.")]
Dtype = Annotated[str, typer.Option(help="Arithmetic: auto (fp32), fp32, bf16 or fp16.")]

AHEAD = 1024  # lines that are read at once
SIZE = 1 << 20  # characters that are read at once


class Line(NamedTuple):
    """A text, where it stands, and its number, from 0."""

    text: str
    where: str
    number: int


def open_pipeline(model: str, task: str, device: str, dtype: str, threads: int) -> Any:
    """The pipeline of a model, which must be for ``task``."""
    from regard.tasks import load

    place, kind = _place(device, dtype, threads)
    return load(model, place, kind, task=task)


def open_loaded(model: str, device: str, dtype: str, threads: int) -> Loaded:
    """A model directory or a published folder, of any task."""
    from regard.pipelines.loading import open_model

    place, kind = _place(device, dtype, threads)
    return open_model(model, place, kind)


def _place(device: str, dtype: str, threads: int) -> tuple[torch.device, torch.dtype]:
    """Device and dtype by name; int8 is refused, since only decoding has products in int8."""
    import torch

    from regard.machine import devices

    if threads:
        torch.set_num_threads(threads)
    place, kind = devices.device(device), devices.dtype(dtype)
    if kind == torch.int8:
        raise RegardError("--dtype int8: expected auto, fp32, bf16 or fp16: int8 is for decoding alone")
    return place, kind


def check_lines(file: str, text: str | None) -> None:
    """Raise where the input cannot be read, before a model is loaded."""
    if text is None:
        check_input(file)
    elif file != "-":
        raise RegardError(f"{file} and --text: expected one of them")
    elif not text.strip():
        raise RegardError("--text is empty: expected a text")


def lines_of(file: str, text: str | None = None) -> Iterator[Line]:
    """The lines of a file, or the one text that was given."""
    from regard.data.corpus import read_lines, without_nul
    from regard.pipelines.lines import without_breaks

    named = read_lines(file) if text is None else [(text, "--text")]
    for number, (line, where) in enumerate(named):
        yield Line(without_breaks(without_nul(line, where)), where, number)


def results(
    lines: Iterable[Line], run: Callable[[list[Line], Warn], list[Result]], typed: bool = False, ahead: int = AHEAD
) -> Iterator[tuple[Line, Result | None]]:
    """Each line with its result, None for a line of white space; ``typed`` lines are answered one at a time.

    ``run`` makes the results of at most ``ahead`` lines; what it warns of is said with the number of the line.
    """
    waiting = iter(lines)
    while chunk := _chunk(waiting, 1 if typed else ahead):
        real = [line for line in chunk if line.text.strip()]

        def warn(index: int, what: str, real: list[Line] = real) -> None:
            warn_of_line(real[index].number, what)

        found = iter(run(real, warn) if real else [])
        for line in chunk:
            yield line, next(found) if line.text.strip() else None
        if typed:
            sys.stdout.flush()


def is_typed(file: str, text: str | None) -> bool:
    """Whether the lines are typed at a terminal."""
    return text is None and file == "-" and sys.stdin.isatty()


def _chunk(lines: Iterator[Line], most: int) -> list[Line]:
    chunk: list[Line] = []
    held = 0
    for line in islice(lines, most):
        chunk.append(line)
        held += len(line.text)
        if held >= SIZE:
            break
    return chunk
