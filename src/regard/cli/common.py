"""What the verbs share: the options that all have, talking on standard error, reading lines."""

from __future__ import annotations

import json as _json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from regard.errors import RegardError
from regard.terminal import printable, printable_json

if TYPE_CHECKING:
    from regard.pipelines import Translator

Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="Model directory (a run is one), or the name of a packaged model.")
]
Device = Annotated[str, typer.Option(help="auto (a CUDA GPU where there is one), cpu, cuda, cuda:1, mps.")]
Dtype = Annotated[str, typer.Option(help="Arithmetic: auto (fp32), fp32, bf16, fp16 or int8 (on a CPU).")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Engine = Annotated[
    str,
    typer.Option(
        help="What searches: regard, or ctranslate2 (ctranslate2:int8, …), which wants power:A and is an extra."
    ),
]
Shortlist = Annotated[
    str, typer.Option(metavar="FILE", help="Score only what it lists for a sentence (regard shortlist makes one).")
]
Beam = Annotated[int, typer.Option("--beam", "-b", min=1, help="Hypotheses kept; 1 is greedy.")]
LengthPenalty = Annotated[
    str | None,
    typer.Option(
        help="gnmt:A divides a score by ((5 + length)/6)^A, power:A by length^A; a bare A is gnmt. By default the one "
        "that the model was chosen with."
    ),
]
BatchTokens = Annotated[int, typer.Option(min=1, help="Batch size in subwords: speed, not results.")]
Png = Annotated[str, typer.Option("--png", metavar="FILE", help="Draw it too: .png, .svg or .pdf.")]
Threads = Annotated[int, typer.Option(min=0, help="CPU threads; 0 is PyTorch's choice.")]


def talk(message: str) -> None:
    """A line for the person, on standard error; results alone go to standard output."""
    print(printable(message), file=sys.stderr, flush=True)


def show(text: str) -> None:
    """A line of a result, on standard output: as it is for a program, and with escapes on a terminal."""
    print(printable(text, keep="\t") if sys.stdout.isatty() else text)


def print_json(value: Any) -> None:
    """One JSON value on a line of standard output, any script readable."""
    print(printable_json(_json.dumps(value, ensure_ascii=False)))


def open_translator(
    model: str, device: str, dtype: str, threads: int = 0, engine: str = "regard", shortlist: str = ""
) -> Translator:
    """The model ready to translate."""
    import torch

    from regard import devices, directory
    from regard.pipelines import Translator
    from regard.training.memory import keep_memory

    if threads:
        torch.set_num_threads(threads)
    place, kind = devices.device(device), devices.dtype(dtype)
    keep_memory()
    return Translator(directory.load(model, place, kind), engine=engine, shortlist=shortlist)


def picture_path(png: str) -> Path | None:
    """Where ``--png`` says to draw; a wrong ending is an error before anything is computed."""
    from regard.look.picture import check_ending

    path = Path(png) if png else None
    if path is not None:
        check_ending(path)
    return path


def read_text(path: str) -> list[str]:
    """All lines of a file, which must not be empty; faults name file and line."""
    from regard.data.corpus import read_lines, without_nul

    lines = [without_nul(text, where) for text, where in read_lines(path)]
    if not lines:
        raise RegardError(f"{path}: no lines in it")
    return lines


def read_parallel(first: str, second: str) -> tuple[list[str], list[str]]:
    """Two files whose lines belong together: as many in the one as in the other."""
    left, right = read_text(first), read_text(second)
    if len(left) != len(right):
        raise RegardError(
            f"{first} has {len(left):,} lines and {second} has {len(right):,}: line N of one must belong to line N of "
            "the other"
        )
    return left, right


def one_line(text: str) -> str:
    """A text that keeps its line: a model may produce a line break as a byte, and a filter may not."""
    return text.replace("\r", " ").replace("\n", " ")


def write_text(path: Path, lines: list[str]) -> None:
    """Lines into a file, replaced in one step."""
    from regard.files import write_atomic

    write_atomic(path, "".join(line + "\n" for line in lines).encode())


def warn_of_line(index: int, message: str) -> None:
    """What a translator has to say about a line, which it counts from 0."""
    talk(f"regard: line {index + 1} {message}")
