"""Runs a server: takes its port, loads its models, answers requests, and ends at SIGTERM."""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence
from dataclasses import replace

import torch
import uvicorn

from regard.accel.prepared import prepare
from regard.decoding.backends import producing_known
from regard.directory import TEXT
from regard.errors import RegardError
from regard.machine.memory import keep_memory
from regard.pipelines import Translator
from regard.serve.app import build_app
from regard.serve.limits import Limits
from regard.serve.requests import Pair
from regard.serve.worker import Served
from regard.serve.workers import PoolBackend, WorkerPool
from regard.tasks import load

GRACE = 10  # seconds that requests in hand are given when the server is told to end


def serve(
    names: Sequence[str],
    *,
    host: str,
    port: int,
    device: torch.device,
    dtype: torch.dtype,
    beam: int | None = None,
    batch_tokens: int | None = None,
    limits: Limits,
) -> None:
    """Serve models until SIGTERM or Ctrl-C. ``port`` 0 is any free one; standard error gives the address."""
    listening = _listening(host, port)
    translators: dict[Pair, Translator] = {}
    loaded: dict[str, Translator] = {}
    models: dict[str, Served] = {}
    for name in names:
        translator: Translator = load(name, device, dtype, task="translation", only_decoding=True)
        if "" in translator.languages:
            raise RegardError(
                f"{name}: this model names no target language, by which POST /translate chooses a model: expected "
                f"'source' and 'target' in {TEXT} of a model directory (a published folder names none)"
            )
        if beam is not None:
            translator.decoding = replace(translator.decoding, beam=beam)
        for target in translator.languages:
            pair = translator.settings.source, target
            if pair in translators:
                raise RegardError(
                    f"{name}: another model translates {pair[0]} → {pair[1]} already; give one for each pair"
                )
            translators[pair] = translator
        loaded[name] = translator
        models[name] = Served(
            prepare(translator.model) if device.type == "cpu" else translator.model,
            producing_known(translator.settings, translator.target_tokenizer, translator.model),
        )
    keep_memory()  # after loading, so that the memory that reading the models took goes back to the system
    tokens = batch_tokens or next(iter(translators.values())).decoding.batch_tokens
    pool = WorkerPool(models, torch.get_num_threads(), tokens)
    for name, translator in loaded.items():
        translator.backend = PoolBackend(pool, name)
    torch.set_num_threads(1)  # this process splits and joins text; the workers compute
    config = uvicorn.Config(
        build_app(translators, pool, limits), log_level="warning", lifespan="on", timeout_graceful_shutdown=GRACE,
        server_header=False, http="h11", ws="none",  # chosen here, so that no other installed package is
    )  # fmt: skip
    pairs = ", ".join(f"{source} → {target}" for source, target in translators)
    address = f"http://{_shown(host)}:{listening.getsockname()[1]}"
    print(f"regard: {pairs} at {address} (Ctrl-C ends it)", file=sys.stderr, flush=True)
    try:
        uvicorn.Server(config).run(sockets=[listening])
    finally:
        pool.close()


def _listening(host: str, port: int) -> socket.socket:
    """The socket of the server; taken before models are loaded, so that a port in use is reported at once."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        # With the protocol named asyncio sees TCP and sends at once; else replies wait 40 ms for a receipt of the last.
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(1024)
    except OSError as error:
        raise RegardError(f"{host}:{port}: cannot listen there ({error.strerror}); choose another --port") from None
    return listening


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
