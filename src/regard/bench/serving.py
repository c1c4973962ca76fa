"""Latency and throughput of ``regard serve`` under load, beside the speed for the same text as a file."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from regard.bench.breakdown import in_lines
from regard.bench.decoding import decoding_speed
from regard.errors import RegardError
from regard.pipelines import Translator


@dataclass(frozen=True)
class Load:
    """The measurements of some clients, each of which requests one sentence after another.

    ``parts``: shares of the time that they waited.
    """

    clients: int
    requests: int
    sentences_per_second: float
    target_tokens_per_second: float
    share: float
    milliseconds: dict[str, float]  # median and p99
    parts: dict[str, float]


@dataclass(frozen=True)
class ServingSpeed:
    """A server under several loads, and the speed for the same text as a file; ``share`` as in ``DecodingSpeed``."""

    beam: int
    file_sentences_per_second: float
    file_share: float
    loads: list[Load]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[str]:
        """The figures as lines of text."""
        lines = [
            f"as a file, beam {self.beam}: {self.file_sentences_per_second:,.1f} sentences/s, {self.file_share:.1%} of "
            "the matrix rate"
        ]
        for load in self.loads:
            said = ", ".join(f"{name} {value:,.1f} ms" for name, value in load.milliseconds.items())
            lines.append(
                f"{load.clients} clients: {load.sentences_per_second:,.1f} sentences/s, {load.share:.1%} of the matrix "
                f"rate; {said}"
            )
            lines += in_lines(load.parts)
        return lines


def serving_speed(
    translator: Translator,
    model: str,
    texts: Sequence[str],
    clients: Sequence[int],
    seconds: float,
    beam: int | None = None,
    options: Sequence[str] = (),
) -> ServingSpeed:
    """Measure ``regard serve MODEL`` with ``options``; ``translator`` is the same model."""
    texts = [text for text in texts if text.strip()]
    width = translator.decoding.beam if beam is None else beam
    whole = decoding_speed(translator, texts, [width])[0]
    found = translator.translate(texts, beam=width)
    sizes = [len(one.tokens) + 1 for one in found]
    pair = translator.settings.source, translator.settings.target
    loads = []
    with running(model, [*options, "--beam", str(width)]) as (host, port):
        asyncio.run(_ask(host, port, pair, texts, max(clients), min(1.0, seconds)))  # to warm up
        for count in clients:
            waits, timings, asked, took = asyncio.run(_ask(host, port, pair, texts, count, seconds))
            tokens = sum(sizes[i] for i in asked) / took
            total, inside = sum(waits), np.array(timings).sum(0) / 1000
            loads.append(
                Load(
                    clients=count,
                    requests=len(waits),
                    sentences_per_second=len(waits) / took,
                    target_tokens_per_second=tokens,
                    share=whole.share * tokens / whole.target_tokens_per_second,
                    milliseconds={
                        "median": 1000 * float(np.percentile(waits, 50)),
                        "p99": 1000 * float(np.percentile(waits, 99)),
                    },
                    parts={
                        "waiting for a slot": inside[0] / total,
                        "decoding": inside[1] / total,
                        "text, HTTP and threads": 1 - inside.sum() / total,
                    },
                )
            )
    return ServingSpeed(width, whole.sentences_per_second, whole.share, loads)


@contextmanager
def running(model: str, options: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Run ``regard serve`` as a process; yields host and port."""
    command = [sys.executable, "-m", "regard", "serve", model, "--port", "0", *options]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, encoding="utf-8")
    try:
        said = ""
        assert server.stderr is not None
        for line in server.stderr:  # the line with the address comes when everything is loaded
            if place := re.search(r"at http://([^ ]+):(\d+) ", line):
                break
            said += line
        else:
            last = (said.strip().splitlines() or ["nothing was said"])[-1]
            raise RegardError(f"regard serve {model} did not start: {last.removeprefix('regard: error: ')}")
        yield place[1], int(place[2])
    finally:
        server.terminate()
        server.wait()


async def _ask(
    host: str, port: int, pair: tuple[str, str], texts: Sequence[str], clients: int, seconds: float
) -> tuple[list[float], list[list[float]], list[int], float]:
    """Seconds of each request, the server's timings in milliseconds, indices of the texts, seconds in all."""
    waits: list[float] = []
    timings: list[list[float]] = []
    asked: list[int] = []
    coming = iter(range(sys.maxsize))
    start = time.perf_counter()

    async def client() -> None:
        reader, writer = await asyncio.open_connection(host, port)
        while time.perf_counter() - start < seconds:
            number = next(coming) % len(texts)
            body = json.dumps({"q": texts[number], "source": pair[0], "target": pair[1]}).encode()
            head = (
                f"POST /translate HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\n\r\n"
            )
            sent = time.perf_counter()
            writer.write(head.encode() + body)
            reply = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            size = re.search(r"(?i)^content-length: (\d+)", reply, re.MULTILINE)
            content = await reader.readexactly(int(size[1]) if size else 0)
            if " 200 " not in reply.partition("\r\n")[0]:
                raise RegardError(f"regard serve answered {content.decode('utf-8', 'replace')}")
            waits.append(time.perf_counter() - sent)
            timings.append([float(value) for value in re.findall(r"dur=([\d.]+)", reply)])
            asked.append(number)
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*(client() for _ in range(clients)))
    return waits, timings, asked, time.perf_counter() - start
