"""``regard serve``: translations over HTTP."""

from __future__ import annotations

from typing import Annotated

import typer

from regard import limits
from regard.cli.common import Device, Dtype, Threads


def serve(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL…", help="Model directories or packaged models, one for each pair.")
    ],
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 is every one.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 is any free one.")] = 5000,
    beam: Annotated[
        int | None,
        typer.Option("--beam", "-b", min=1, max=limits.BEAM, help="Hypotheses kept; default: the model's."),
    ] = None,
    batch_tokens: Annotated[
        int | None,
        typer.Option(min=1, max=limits.BATCH, help="Subwords that a core decodes at once; default: as translate."),
    ] = None,
    in_hand: Annotated[
        int, typer.Option(min=1, max=limits.ANY_NUMBER, help="Sentences at once; further requests are refused (503).")
    ] = 512,
    device: Device = "auto",
    dtype: Dtype = "auto",
    threads: Threads = 0,
) -> None:
    """Serve translations with LibreTranslate's POST /translate, a decoding process on each core.

    Sentences of all requests are decoded together; a new one takes the slot of a finished one.

    Example: regard serve zh-en --port 5000

    curl localhost:5000/translate -H 'content-type: application/json' -d '{"q": "我爱机器学习", "target": "en"}'
    """
    import torch

    from regard.machine import devices
    from regard.serve.limits import Limits
    from regard.serve.run import serve as run

    if threads:
        torch.set_num_threads(threads)
    run(
        models, host=host, port=port, device=devices.device(device), dtype=devices.dtype(dtype), beam=beam,
        batch_tokens=batch_tokens, limits=Limits(in_hand=in_hand),
    )  # fmt: skip
