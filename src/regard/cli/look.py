"""``regard look``: the attention of a translation, in the terminal, as a picture, or as numbers."""

from __future__ import annotations

from typing import Annotated

import typer

from regard import limits
from regard.cli.common import (
    Beam,
    Device,
    Dtype,
    Json,
    Model,
    Png,
    Threads,
    check_search,
    open_translator,
    picture_path,
    print_json,
    show,
    talk,
)


def look(
    model: Model,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="One text, in quotes.")],
    png: Png = "",
    layer: Annotated[
        int | None,
        typer.Option(min=0, max=limits.ANY_NUMBER, help="Decoder layer, from 0; default: the one that aligns best."),
    ] = None,
    head: Annotated[
        int | None, typer.Option(min=0, max=limits.ANY_NUMBER, help="Head, from 0; default: the mean over all.")
    ] = None,
    beam: Beam = 5,
    device: Device = "auto",
    dtype: Dtype = "auto",
    threads: Threads = 0,
    json: Json = False,
) -> None:
    """Translate a text and draw its attention: a row for each produced subword, a column for each of the text's.

    The darker (in colour: the yellower) a cell, the more attention. Attention to the end mark is not shown.

    Example: regard look zh-en 我爱机器学习 --png map.png
    """
    from rich.console import Console

    from regard.draw.picture import write
    from regard.draw.terminal import TerminalMap
    from regard.look.attention import look_at

    path = picture_path(png)
    check_search("regard", "", beam)
    found, attention = look_at(open_translator(model, device, dtype, threads), text, beam=beam, layer=layer, head=head)
    if json:
        print_json({"text": found.text, "score": found.score, **attention.to_dict()})
    else:
        show(found.text)
        Console(highlight=False).print(TerminalMap(attention))
    if path is not None:
        write(attention, path)
        talk(f"picture: {path}")
