"""A server on the packaged model under hostile requests: long texts, four at once, and malformed ones.

    python benchmarks/hostile/requests.py --seed 1 --count 64

Every malformed request gets 4xx, or 503 with Retry-After; no reply holds a traceback or a path of this machine; a
sentence is translated to the same bytes afterwards; and how long one waits beside long texts is printed.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import os
import random
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

if not __package__:  # this file is run by its name
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from hostile.malformed import Case, cases, request

COUNT = 64
AT_ONCE = 4  # of them are texts that are too long, sent at once, and as many are long and fit
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
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.process.stderr is not None
        self.log.extend(self.process.stderr)

    def send(self, case: Case) -> Answer:
        """What comes back, status 0 where nothing does."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE) as connection:
            try:
                for piece in case.pieces:
                    if isinstance(piece, float):
                        time.sleep(piece)
                    else:
                        connection.sendall(piece)
                if case.half_closed:
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
        return self.send(Case("", [request(body)]))

    def in_hand(self) -> int:
        answer = self.send(Case("", [b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"]))
        return int(json.loads(answer.body)["in_hand"])


@contextmanager
def serving(*options: str) -> Iterator[Server]:
    server = Server(*options)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.wait()


def run(seed: int, count: int) -> list[tuple[str, str]]:
    """``count`` tries: what each was, and in what way it failed, or ""."""
    chooser = random.Random(seed)
    with serving() as server:
        expected = server.ask(SENTINEL)
        if expected.status != 200:
            return [("a sound request", fault(expected) or f"{expected.status} {expected.body[:80]!r}")]
        found = long_texts(server, chooser, TOO_LONG, min(AT_ONCE, count))
        found += long_texts(server, chooser, FITTING, min(AT_ONCE, count - len(found)))
        for case in itertools.islice(cases(chooser), count - len(found)):
            found.append((case.label, checked(server, case, expected)))
        if any(b"Traceback" in line for line in server.log):
            found.append(("the server's own log", "a traceback: " + b"".join(server.log).decode("utf-8", "replace")))
    return found


def long_texts(
    server: Server, chooser: random.Random, kinds: dict[str, Callable[[random.Random], str]], count: int
) -> list[tuple[str, str]]:
    """Long texts, all at once, while somebody asks for one sentence after the other."""
    labels = list(itertools.islice(itertools.cycle(kinds), count))
    made = [kinds[label](chooser) for label in labels]
    waited, most = [0.0], 0
    with ThreadPoolExecutor(count or 1) as clients:
        bodies = [json.dumps({"q": text, "source": "zh", "target": "en"}).encode() for text in made]
        answers = [clients.submit(server.ask, body) for body in bodies]
        while not all(answer.done() for answer in answers):
            began = time.monotonic()
            with suppress(TimeoutError):  # which is told as a wait
                server.ask(SENTINEL)
            waited.append(time.monotonic() - began)
            most = max(most, server.in_hand())
    print(f"beside {', '.join(labels)}: a small caller waited {max(waited):.2f} s; in hand: {most}")
    late = f"a small caller waited {max(waited):.1f} s" if max(waited) > CALM else ""
    many = f"{most} sentences in hand of {LIMIT}" if most > LIMIT else ""
    wrong = [late or many or _outcome(answer) for answer in answers]
    return list(zip(labels, wrong, strict=True))


def _outcome(answer: Future[Answer]) -> str:
    try:
        return fault(answer.result(), lenient=True)
    except OSError as error:
        return f"no answer: {error}"


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


def checked(server: Server, case: Case, expected: Answer) -> str:
    """What is wrong with how the server took a request, or ""."""
    try:
        answer = server.send(case)
        after = server.ask(SENTINEL)
    except OSError as error:
        return f"no answer: {error}"
    wrong = fault(answer) if answer.status else "" if case.gone else "no answer"
    if (after.status, after.body) != (expected.status, expected.body):
        wrong = wrong or f"the sentinel became {after.status} {after.body[:80]!r}"
    return wrong


def fault(answer: Answer, lenient: bool = False) -> str:
    """What is wrong with an answer; ``lenient``: a translation is fine too."""
    if leak := LEAKS.search(answer.body):
        return f"{answer.status}, and {leak[0]!r} in the body"
    refused = 400 <= answer.status < 500 or (answer.status == 503 and "retry-after" in answer.headers)
    return "" if refused or (lenient and answer.status == 200) else f"{answer.status} {answer.body[:80]!r}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=COUNT)
    given = parser.parse_args()
    found = run(given.seed, given.count)
    for label, failure in found:
        if failure:
            print(f"{label}: {failure}")
    failures = sum(bool(failure) for _, failure in found)
    print(f"{len(found)} hostile requests (seed {given.seed}): {failures} failures")
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
