"""``regard bench``: the speed of a model on this machine, and its share of the machine's limit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from regard import limits
from regard.cli.common import (
    Device,
    Dtype,
    Json,
    Model,
    Png,
    Shortlist,
    Threads,
    check_search,
    open_translator,
    picture_path,
    print_json,
    talk,
)
from regard.errors import RegardError

if TYPE_CHECKING:
    from regard.pipelines import Translator

bench = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
    help="This machine's speed, as a share of its limit: regard bench train, decode MODEL, serve MODEL.",
)


CLIENTS = 10_000  # at most at once, each with a connection
SENTENCES = 1000  # lines of a text that the clients of bench serve request
Source = Annotated[str, typer.Option(metavar="FILE", help="Text to translate; default: Tatoeba's dev, Chinese.")]
Parts = Annotated[bool, typer.Option("--parts", help="Say where the time goes: one more run, profiled.")]


@bench.command()
def train(
    shape: Annotated[
        str, typer.Argument(metavar="[SHAPE]", help="A preset (base, rnn:small) or CONFIG.toml.")
    ] = "tiny",
    vocabulary: Annotated[
        int, typer.Option(min=300, max=limits.VOCABULARY, help="Entries of the joint vocabulary.")
    ] = 8000,
    batch_tokens: Annotated[
        int, typer.Option(min=64, max=limits.BATCH, help="Sentences × the longest side of a batch.")
    ] = 4096,
    length: Annotated[
        float, typer.Option(min=1, max=limits.LENGTH, help="Mean length of a sentence in subwords.")
    ] = 14.0,
    updates: Annotated[int, typer.Option(min=1, max=limits.ANY_NUMBER, help="Timed updates, after 3 to warm up.")] = 20,
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16.")] = "auto",
    compile: Annotated[bool, typer.Option("--compile", help="Fused kernels, on a CUDA GPU.")] = False,
    parts: Parts = False,
    png: Png = "",
    device: Device = "auto",
    threads: Threads = 0,
    json: Json = False,
) -> None:
    """Time updates on random pairs, and print their share of the machine's matrix rate.

    Share: 6 operations for each weight of a product and real token, plus attention's, over time × matrix rate. Padding
    is not counted. Target tokens are subwords and end marks.

    Example: regard bench train base --vocabulary 37000 --updates 5
    """
    import torch

    from regard.bench.training import training_speed
    from regard.machine import devices

    picture = picture_path(png)
    if threads:
        torch.set_num_threads(threads)
    found = training_speed(
        _model_table(shape),
        vocabulary=vocabulary,
        batch_tokens=batch_tokens,
        length=length,
        updates=updates,
        precision=precision,
        compile=compile,
        device=devices.device(device),
        parts=parts or picture is not None,
    )
    if json:
        print_json({"shape": shape, **found.to_dict()})
    else:
        print("\n".join(found.lines()))
    _draw({shape: found.parts}, picture)


@bench.command()
def decode(
    model: Model,
    source: Source = "",
    beam: Annotated[
        list[int] | None, typer.Option("--beam", "-b", min=1, max=limits.BEAM, help="A beam width; give several.")
    ] = None,
    sentences: Annotated[
        int, typer.Option(min=1, max=limits.ANY_NUMBER, help="At most so many lines of the text.")
    ] = 1000,
    batch_tokens: Annotated[int, typer.Option(min=1, max=limits.BATCH, help="Batch size in subwords.")] = 4096,
    shortlist: Shortlist = "",
    parts: Parts = False,
    png: Png = "",
    device: Device = "auto",
    dtype: Dtype = "auto",
    threads: Threads = 0,
    json: Json = False,
) -> None:
    """Time translations, greedy and with beams. Target tokens are subwords and end marks of the printed outputs.

    Example: regard bench decode zh-en --beam 1 --beam 5
    """
    from regard.bench.decoding import decoding_speed

    picture = picture_path(png)
    for width in beam or ():
        check_search("regard", shortlist, width)
    texts = _texts(source, sentences) if source else []
    translator = open_translator(model, device, dtype, threads, shortlist=shortlist)
    texts = texts or _dev_of(translator, model, sentences)
    found = decoding_speed(translator, texts, beam or (1, 5), batch_tokens, parts=parts or picture is not None)
    if json:
        print_json({"model": model, "speeds": [speed.to_dict() for speed in found]})
    else:
        print("\n".join(line for speed in found for line in speed.lines()))
    _draw({f"beam {speed.beam}": speed.parts for speed in found}, picture)


@bench.command()
def serve(
    model: Model,
    source: Source = "",
    clients: Annotated[
        list[int] | None, typer.Option("--clients", min=1, max=CLIENTS, help="Clients at once; give several.")
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0.1, max=limits.ANY_NUMBER, help="Duration for each number of clients.")
    ] = 10.0,
    beam: Annotated[int | None, typer.Option("--beam", "-b", min=1, max=limits.BEAM, help="Hypotheses kept.")] = None,
    png: Png = "",
    device: Device = "auto",
    dtype: Dtype = "auto",
    threads: Threads = 0,
    json: Json = False,
) -> None:
    """Start regard serve, let clients request a sentence at a time, and print how long they wait.

    The speed for the same text as a file is printed beside it; shares are of the matrix rate.

    Example: regard bench serve zh-en --clients 1 --clients 64
    """
    from regard.bench.serving import serving_speed

    picture = picture_path(png)
    check_search("regard", "", beam)
    texts = _texts(source, SENTENCES) if source else []
    translator = open_translator(model, device, dtype, threads)
    texts = texts or _dev_of(translator, model, SENTENCES)
    given = ["--device", device, "--dtype", dtype, "--threads", str(threads)]
    found = serving_speed(translator, model, texts, clients or (1, 8, 64), seconds, beam, given)
    if json:
        print_json({"model": model, **found.to_dict()})
    else:
        print("\n".join(found.lines()))
    _draw({f"{load.clients} clients": load.parts for load in found.loads}, picture)


def _texts(path: str, most: int) -> list[str]:
    """The first lines of a file; an error if all are empty."""
    import itertools

    from regard.data.corpus import read_lines

    texts = [text for text, _ in itertools.islice(read_lines(path), most)]
    if not any(text.strip() for text in texts):
        raise RegardError(f"{path}: nothing to translate in its first {most:,} lines")
    talk(f"{len(texts):,} lines of {path}")
    return texts


def _dev_of(translator: Translator, model: str, most: int) -> list[str]:
    """Tatoeba's Chinese dev; an error for a model with another source language."""
    if translator.settings.source != "zh":
        raise RegardError(f"{model} translates from '{translator.settings.source}': name a text with --source FILE")
    return _texts(str(_dev()), most)


def _draw(bars: dict[str, dict[str, float]], path: Path | None) -> None:
    from regard.draw.bars import write

    if path is not None:
        write(bars, path)
        talk(f"picture: {path}")


def _model_table(shape: str) -> dict[str, Any]:
    """The ``[model]`` table of a preset's name or a configuration."""
    from regard.config import read_config

    path = Path(shape)
    if path.suffix == ".toml":
        return dict(read_config(path).model)
    architecture, _, preset = shape.rpartition(":")
    return {"architecture": architecture or "transformer", "preset": preset}


def _dev() -> Path:
    from regard.cli.demo import corpus

    return corpus() / "dev.zh.xz"
