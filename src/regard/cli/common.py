"""Options and functions that verbs share: models, printing, reading and writing lines."""

from __future__ import annotations

import json as _json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from regard import limits
from regard.errors import RegardError
from regard.terminal import printable, printable_json

if TYPE_CHECKING:
    from regard.pipelines import Translator

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="Model directory (a run is one), published folder, ORG/NAME, or the name of a packaged model.",
    ),
]
Device = Annotated[str, typer.Option(help="auto (a CUDA GPU where there is one), cpu, cuda, cuda:1, mps.")]
Dtype = Annotated[str, typer.Option(help="Arithmetic: auto (fp32), fp32, bf16, fp16 or int8 (on a CPU).")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Backend = Annotated[
    str,
    typer.Option(
        help="What searches: regard, or ctranslate2 (ctranslate2:int8, …), which wants power:A and is an extra."
    ),
]
Shortlist = Annotated[
    str,
    typer.Option(metavar="FILE", help="Score only the subwords that FILE lists for a sentence (see regard shortlist)."),
]
Beam = Annotated[int, typer.Option("--beam", "-b", min=1, max=limits.BEAM, help="Hypotheses kept; 1 is greedy.")]
LengthPenalty = Annotated[
    str | None,
    typer.Option(
        help="gnmt:A divides a score by ((5 + length)/6)^A, power:A by length^A; a bare A is gnmt. Default: the one "
        "with which the model was validated."
    ),
]
BatchTokens = Annotated[int, typer.Option(min=1, max=limits.BATCH, help="Batch size in subwords: speed, not results.")]
Png = Annotated[str, typer.Option("--png", metavar="FILE", help="Draw a picture too: .png, .svg or .pdf.")]
Threads = Annotated[int, typer.Option(min=0, max=limits.THREADS, help="CPU threads; 0 is PyTorch's choice.")]


def talk(message: str) -> None:
    """Print a remark on standard error; standard output is for results alone."""
    print(printable(message), file=sys.stderr, flush=True)


def show(text: str) -> None:
    """Print a line of a result on standard output, unchanged for a program, with escapes on a terminal."""
    print(printable(text, keep="\t") if sys.stdout.isatty() else text)


def print_json(value: Any) -> None:
    """Print a JSON value on a line of standard output, characters of all scripts unescaped."""
    print(printable_json(_json.dumps(value, ensure_ascii=False)))


def open_translator(
    model: str,
    device: str,
    dtype: str,
    threads: int = 0,
    backend: str = "regard",
    shortlist: str = "",
    only_decoding: bool = False,
) -> Translator:
    """The model ready to translate; ``only_decoding`` as in ``regard.tasks.load``."""
    import torch

    from regard.machine import devices
    from regard.machine.memory import keep_memory
    from regard.tasks import load

    if threads:
        torch.set_num_threads(threads)
    place, kind = devices.device(device), devices.dtype(dtype)
    found: Translator = load(
        model, place, kind, task="translation", only_decoding=only_decoding, backend=backend, shortlist=shortlist
    )
    keep_memory()  # after loading, so that the memory that reading a model took goes back to the system
    return found


def files_of_model(name: str) -> list[Path]:
    """The files of the model or run ``name``, which no output may replace; none if there is no such model.

    Other files in the folder of a run may be replaced.
    """
    from regard import directory, files, manifest, weights
    from regard.interop.published import FILES
    from regard.pipelines.loading import found as folder_of
    from regard.training import metrics, rundir, snapshots

    try:
        folder = directory.find(folder_of(name))
        places, shards = {Path(name), folder}, weights.files_of(folder)
    except RegardError:  # loading the model will say why
        return []
    single = {
        *directory.FILES, *FILES, *shards, manifest.MANIFEST, rundir.CONFIG, metrics.METRICS, metrics.TIMING
    }  # fmt: skip
    folders = (rundir.CHECKPOINTS, rundir.CORPUS, snapshots.SNAPSHOTS, metrics.TENSORBOARD, files.PREVIOUS)
    found = [place / one for place in places for one in single]
    return found + [path for place in places for folder in folders for path in (place / folder).rglob("*")]


def check_search(
    backend: str, shortlist: str, beam: int | None, n_best: int = 1, length_penalty: str | None = None
) -> None:
    """Raise for wrong options of a search, before a model is loaded."""
    from regard.decoding.backends import check_backend
    from regard.decoding.ranking import LengthPenalty
    from regard.decoding.search import Search

    check_backend(backend, shortlist)
    Search(
        beam=max(n_best, 1) if beam is None else beam,
        n_best=n_best,
        length_penalty=LengthPenalty.parse(length_penalty or 0.0),
    )


def picture_path(png: str) -> Path | None:
    """The path of ``--png``; raises for a wrong ending or place before anything is computed."""
    from regard.draw.picture import check_ending
    from regard.outputs import check_output

    path = Path(png) if png else None
    if path is not None:
        check_ending(path)
        check_output(path)
    return path


def check_input(path: str) -> None:
    """Raise if a text cannot be opened, before a model is loaded; "-" is standard input."""
    if path == "-":
        return
    if os.path.isdir(path):
        raise RegardError(f"{path}: is a folder; expected a text file")
    if not os.path.exists(path):
        raise RegardError(f"{path}: no such file")
    if not os.access(path, os.R_OK):
        raise RegardError(f"{path}: cannot be read: Permission denied")


def read_text(path: str) -> list[str]:
    """All lines of a file; an error if there are none. Faults name file and line."""
    from regard.data.corpus import read_lines, without_nul

    lines = [without_nul(text, where) for text, where in read_lines(path)]
    if not lines:
        raise RegardError(f"{path}: no lines in it")
    return lines


def read_parallel(first: str, *others: str) -> list[list[str]]:
    """The lines of parallel files; an error if their numbers differ."""
    found = [read_text(path) for path in (first, *others)]
    for path, lines in zip(others, found[1:], strict=True):
        if len(lines) != len(found[0]):
            raise RegardError(
                f"{first} has {len(found[0]):,} lines and {path} has {len(lines):,}: line N of one must belong to "
                "line N of the other"
            )
    return found


def one_line(text: str) -> str:
    """The text on one line: a model may produce a line break as a byte."""
    return text.replace("\r", " ").replace("\n", " ")


def write_text(path: Path, lines: list[str]) -> None:
    """Write lines into a file, replaced in one step."""
    from regard.outputs import write_output

    write_output(path, "".join(line + "\n" for line in lines).encode())


def warn_of_line(index: int, message: str) -> None:
    """Print a translator's remark about line ``index``, from 0."""
    talk(f"regard: line {index + 1} {message}")
