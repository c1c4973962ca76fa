"""The limits of a server: sentences are counted after texts are split, and nobody is held up by what others send."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from regard.decoding.engine import Input
from regard.serve.turns import Turns

from .servers import Server, serving

LIMIT = 128
CALM = 10.0  # seconds; it takes a fraction of one on an idle machine


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """The packaged model, whose sentences take some time."""
    with serving("zh-en", "--threads", 2, "--in-hand", LIMIT) as server:
        server.translated("你好")
        yield server


def in_hand(server: Server) -> int:
    return int(server.ask(b"", path="/health", method="GET")[1]["in_hand"])


def watched(server: Server, requests: list[Future[tuple[int, dict[str, str]]]]) -> int:
    """The most that was in hand until all requests were answered."""
    most = 0
    while not all(request.done() for request in requests):
        most = max(most, in_hand(server))
        time.sleep(0.01)
    return most


def written(numbers: Iterable[int]) -> str:
    return "".join(f"这是第{number}句话，很长很长，也没有什么意思。" for number in numbers)


LONG = {
    "no end anywhere": "一" * 50_000,
    "sentences": "".join(f"这是第{n}句话。" for n in range(6_000))[:50_000],
    "lines": "一\n" * 25_000,
    "rare characters": "".join(chr(0x20000 + n % 40_000) for n in range(50_000)),
}


def test_four_requests_of_fifty_thousand_characters_hold_nobody_up(server: Server) -> None:
    with ThreadPoolExecutor(4) as clients:
        requests = [clients.submit(server.ask, {"q": text, "target": "en"}) for text in LONG.values()]
        began = time.monotonic()
        assert server.translated("你好")
        waited = time.monotonic() - began
        assert watched(server, requests) <= LIMIT
        found = dict(zip(LONG, (request.result() for request in requests), strict=True))
    assert waited < CALM
    for name, (status, reply) in found.items():
        assert status == 413 and "at once" in reply["error"], (name, status, reply)


def test_four_requests_that_each_fit_are_taken_one_at_a_time_and_hold_nobody_up(server: Server) -> None:
    texts = [written(range(at, at + 60)) for at in (0, 60, 120, 180)]
    with ThreadPoolExecutor(4) as clients:
        requests = [clients.submit(server.ask, {"q": text, "target": "en"}) for text in texts]
        while in_hand(server) == 0 and not all(request.done() for request in requests):
            time.sleep(0.005)
        began = time.monotonic()
        small = clients.submit(server.ask, {"q": "你好", "target": "en"})
        assert watched(server, [*requests, small]) <= LIMIT
        assert small.result()[0] in (200, 503) and time.monotonic() - began < CALM
        statuses = [request.result()[0] for request in requests]
    assert 200 in statuses and set(statuses) <= {200, 503}, statuses
    assert in_hand(server) == 0


def test_a_request_that_does_not_fit_now_is_told_when_to_come_again(model: Path) -> None:
    with serving(model, "--threads", 1, "--in-hand", 40) as server, ThreadPoolExecutor(16) as clients:
        body = {"q": "一二三\n" * 30, "target": "en"}
        found = list(clients.map(lambda _: server.reply(body), range(32)))
        assert {status for status, _, _ in found} == {200, 503}
        for status, headers, reply in found:
            if status == 503:
                assert headers["Retry-After"] == "1" and "come again" in reply["error"]
        assert server.ask({"q": "一二三\n" * 41, "target": "en"})[0] == 413
        assert server.ask({"q": ["一", "二\n三"] * 14, "target": "en"})[1]["error"].startswith("42 sentences")
        assert server.ask({"q": ["一", " \n"] * 20, "target": "en"})[0] == 200


def test_a_body_that_is_too_long_is_refused_before_it_is_read(server: Server) -> None:
    for length in (10**7, 10**12, 10**18):
        status, reply = server.ask(b"{}", **{"Content-Length": str(length)})
        assert status == 413 and "1,048,576 bytes" in reply["error"]
    status, reply = server.ask(b" " * 3_000_000)
    assert status == 413 and "1,048,576 bytes" in reply["error"]


def test_a_long_request_does_not_keep_a_short_one_waiting_until_it_is_done() -> None:
    with serving("zh-en", "--threads", 1, "--in-hand", 600) as server, ThreadPoolExecutor(2) as clients:
        server.translated("你好")
        long = clients.submit(server.ask, {"q": written(range(250)), "target": "en"})
        while in_hand(server) == 0:
            time.sleep(0.005)
        assert server.translated("你好") and not long.done()
        assert in_hand(server) > 50
        assert long.result()[0] == 200


def test_a_client_that_disconnects_gives_up_its_room() -> None:
    with serving("zh-en", "--threads", 1, "--in-hand", 400) as server:
        body = json.dumps({"q": written(range(300)), "target": "en"}).encode()
        head = "POST /translate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            while in_hand(server) < 250:
                time.sleep(0.005)
        began = time.monotonic()
        while in_hand(server):
            assert time.monotonic() - began < CALM
            time.sleep(0.005)
        assert len(server.translated(written(range(300)))) > 300  # there is room for as many as before
        assert server.translated("你好") and in_hand(server) == 0


def test_requests_take_turns() -> None:
    turns = Turns()
    turns.add([Input(number, [5, 5]) for number in (1, 2, 3, 4)])
    turns.add([Input(5, [5, 5])])
    assert [one.number for one in turns.take(6)] == [1, 5]
    turns.add([Input(6, [5]), Input(7, [5])])
    turns.drop([3])
    assert [one.number for one in turns.take(100)] == [2, 6, 4, 7] and not turns
