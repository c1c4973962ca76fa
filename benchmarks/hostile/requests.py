"""A server on the packaged model under hostile requests: long texts, four at once, and malformed ones.

A request is accepted if it is translated, which long texts that fit may be; it is refused by 4xx, or by 503 with
Retry-After. A malformed one must be refused; a client that leaves first may get no answer, which counts as refused. No
reply holds a traceback or a path of this machine, none is logged, and a sentence is translated to the same bytes after
each. How long somebody waits for one sentence beside long texts is printed.
"""

from __future__ import annotations

import functools
import http.client
import json
import os
import random
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from hostile import Case, Outcome, rng_of
from hostile.malformed import Request, made, request

COUNT = 64
AT_ONCE = 4  # the first cases are so many texts that are too long, sent at once; the next ones are long and fit
LIMIT = 512  # sentences in hand
CALM = 10.0  # seconds that a small caller may wait beside these
PATIENCE = 30.0  # seconds after which a request hangs
SENTINEL = json.dumps({"q": "我爱机器学习。", "source": "zh", "target": "en"}).encode()
LEAKS = re.compile(rb'Traceback|File "|site-packages|\.py\b|/src/|/home/|/root/')


class Answer(NamedTuple):
    status: int  # 0: none
    headers: dict[str, str]
    body: bytes


class Server:
    """``regard serve`` as a process, with what it writes on standard error."""

    def __init__(self, *options: str) -> None:
        command = [sys.executable, "-m", "regard", "serve", "zh-en", "--port", "0", *options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, env={**os.environ, "PYTHONUNBUFFERED": "1"})
        assert self.process.stderr is not None
        said = self.process.stderr.readline()
        place = re.search(rb"http://127\.0\.0\.1:(\d+) ", said)
        if place is None:
            raise SystemExit((said + self.process.stderr.read()).decode())
        self.port = int(place[1])
        self.log: list[bytes] = []
        threading.Thread(target=self.log.extend, args=(self.process.stderr,), daemon=True).start()

    def tracebacks(self) -> int:
        """How many the server has logged."""
        return sum(b"Traceback" in line for line in list(self.log))

    def send(self, sent: Request) -> Answer:
        """The answer; its status is 0 where none comes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE) as connection:
            try:
                for piece in sent.pieces:
                    if isinstance(piece, float):
                        time.sleep(piece)
                    else:
                        connection.sendall(piece)
                if sent.half_closed:
                    connection.shutdown(socket.SHUT_WR)
            except (BrokenPipeError, ConnectionResetError):
                pass  # it has answered before it was told everything
            response = http.client.HTTPResponse(connection)
            try:
                response.begin()
                return Answer(response.status, {k.lower(): v for k, v in response.headers.items()}, response.read())
            except (http.client.HTTPException, ConnectionError):
                return Answer(0, {}, b"")

    def ask(self, body: bytes) -> Answer:
        return self.send(Request("", [request(body)]))

    def in_hand(self) -> int:
        answer = self.send(Request("", [b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"]))
        return int(json.loads(answer.body)["in_hand"])


@contextmanager
def serving(*options: str) -> Iterator[Server]:
    server = Server(*options)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.wait()


def cases(seed: int, numbers: Iterable[int], folder: Path) -> Iterator[Case]:
    """Each case is a request; what is sent is in ``folder/request``. All go to one server.

    A long text whose number is given without those beside it is sent without them.
    """
    wanted = list(numbers)
    with serving() as server:
        expected = server.ask(SENTINEL)
        if expected.status != 200:
            sys.exit(f"the server does not translate: {expected.status} {expected.body[:80]!r}")
        for first, kinds in ((0, TOO_LONG), (AT_ONCE, FITTING)):
            yield from _long(server, seed, [n for n in wanted if first <= n < first + AT_ONCE], kinds, folder)
        for number in wanted:
            if number >= 2 * AT_ONCE:
                sent = made(number - 2 * AT_ONCE, rng_of(seed, number))
                _keep(folder, sent)
                yield Case(number, sent.label, partial(_malformed, server, sent, expected))


def _keep(folder: Path, sent: Request) -> None:
    (folder / "request").write_bytes(b"".join(piece for piece in sent.pieces if isinstance(piece, bytes)))


def _long(
    server: Server, seed: int, numbers: list[int], kinds: Mapping[str, Callable[[random.Random], str]], folder: Path
) -> Iterator[Case]:
    """Long texts; all are sent when the first is tried."""
    labels = list(kinds)
    found: dict[int, Request] = {}
    for number in numbers:
        label = labels[number % len(labels)]
        body = {"q": kinds[label](rng_of(seed, number)), "source": "zh", "target": "en"}
        found[number] = Request(label, [request(json.dumps(body).encode())])
    together = functools.cache(lambda: dict(zip(found, _beside(server, list(found.values())), strict=True)))
    for number, sent in found.items():
        _keep(folder, sent)
        yield Case(number, sent.label, lambda number=number: together()[number])


def _beside(server: Server, requests: list[Request]) -> list[Outcome]:
    """Sends requests at once, while somebody asks for one sentence after the other."""
    waited, most = 0.0, 0
    with ThreadPoolExecutor(len(requests)) as clients:
        answers = [clients.submit(_sent, server, one, lenient=True) for one in requests]
        while not all(answer.done() for answer in answers):
            began = time.monotonic()
            with suppress(TimeoutError):  # which is told as a wait
                server.ask(SENTINEL)
            waited = max(waited, time.monotonic() - began)
            most = max(most, server.in_hand())
    said = f"a small caller waited {waited:.2f} s; in hand: {most}"
    print(f"beside {', '.join(one.label for one in requests)}: {said}")
    wrong = f"a small caller waited {waited:.1f} s" if waited > CALM else ""
    wrong = wrong or (f"{most} sentences in hand of {LIMIT}" if most > LIMIT else "")
    return [answer.result()._replace(**({"verdict": wrong} if wrong else {})) for answer in answers]


def _sentences(chooser: random.Random) -> str:
    return "".join(f"这是{chooser.randrange(10**6)}。" for _ in range(9_999))


TOO_LONG: dict[str, Callable[[random.Random], str]] = {
    "50,000 characters without an end": lambda chooser: chooser.choice("一的我") * 50_000,
    "50,000 characters of sentences": lambda chooser: _sentences(chooser)[:50_000],
    "25,000 lines": lambda chooser: "".join(chooser.choice("一二三四五") + "\n" for _ in range(25_000)),
    "50,000 rare characters": lambda chooser: "".join(chr(chooser.randrange(0x20000, 0x2A6D0)) for _ in range(50_000)),
}
FITTING: dict[str, Callable[[random.Random], str]] = {
    "200 sentences": lambda chooser: "。".join(_sentences(chooser).split("。")[:200]),
}


def _malformed(server: Server, sent: Request, expected: Answer) -> Outcome:
    """Sends a request that is to be refused, and then a sound one."""
    logged = server.tracebacks()
    outcome = _sent(server, sent)
    try:
        after = server.ask(SENTINEL)
    except OSError as error:
        after = Answer(0, {}, str(error).encode())
    if outcome.failed:
        return outcome
    if (after.status, after.body) != (expected.status, expected.body):
        return outcome._replace(verdict=f"the sentinel became {after.status} {after.body[:80]!r}")
    if server.tracebacks() > logged:
        return outcome._replace(verdict="a traceback in the server's log")
    return outcome


def _sent(server: Server, sent: Request, lenient: bool = False) -> Outcome:
    """Sends a request; ``lenient``: it may be translated too."""
    began = time.monotonic()
    try:
        answer = server.send(sent)
    except OSError as error:
        return Outcome(f"no answer: {error}", time.monotonic() - began)
    return Outcome(judge(answer, sent.gone, lenient), time.monotonic() - began, said=f"{answer.status} {answer.body!r}")


def judge(answer: Answer, gone: bool, lenient: bool) -> str:
    """ "accepted", "refused", or what is wrong with an answer; ``gone``: the client left before it could come."""
    if not answer.status:
        return "refused" if gone else "no answer"
    if leak := LEAKS.search(answer.body):
        return f"{answer.status}, and {leak[0]!r} in the body"
    if lenient and answer.status == 200:
        return "accepted"
    refused = 400 <= answer.status < 500 or (answer.status == 503 and "retry-after" in answer.headers)
    return "refused" if refused else f"{answer.status} {answer.body[:80]!r}"
