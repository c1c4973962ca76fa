"""``regard serve`` as a process: what it answers and refuses, and what load, killed workers and SIGTERM do to it."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest

from .conftest import Regard, pairs, refused
from .servers import Server, serving

TEXTS = [source for source, _ in pairs(60, seed=5)]


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[Server]:
    with serving(model, "--threads", 2) as server:
        yield server


@pytest.fixture(scope="module")
def expected(regard: Regard, model: Path) -> list[str]:
    """The translations of TEXTS by ``regard translate``."""
    return regard("translate", model, input="\n".join(TEXTS).encode()).stdout.decode().splitlines()


def test_a_server_translates_as_the_command_does(server: Server, expected: list[str]) -> None:
    assert server.translated(TEXTS) == expected
    assert server.translated(TEXTS[3]) == expected[3]
    assert server.translated(["", TEXTS[3], "  "])[1] == expected[3]


def test_sentences_of_many_requests_get_what_they_get_alone(server: Server, expected: list[str]) -> None:
    for size in (1, 3, 17):
        parts = [TEXTS[at : at + size] for at in range(0, len(TEXTS), size)]
        with ThreadPoolExecutor(len(parts)) as clients:
            assert [text for found in clients.map(server.translated, parts) for text in found] == expected


def test_alternatives_languages_and_health(server: Server) -> None:
    status, found = server.ask({"q": TEXTS[:2], "target": "en", "alternatives": 1, "format": "text", "api_key": ""})
    assert status == 200 and [len(others) for others in found["alternatives"]] == [1, 1]
    status, found = server.ask({"q": TEXTS[0], "target": "en", "alternatives": 1})
    assert status == 200 and found["alternatives"] and found["alternatives"][0] != found["translatedText"]
    assert server.ask(b"", path="/languages", method="GET") == (
        200,
        [{"code": "zh", "name": "Chinese", "targets": ["en"]}, {"code": "en", "name": "English", "targets": []}],
    )
    assert server.ask(b"", path="/health", method="GET") == (200, {"status": "ok", "in_hand": 0})


@pytest.mark.parametrize(
    "body, status, said",
    [
        (b"{", 400, "Invalid JSON"),
        (b"[]", 400, "expected an object"),
        (b"\xff\xfe{\x00}\x00", 400, "Invalid JSON"),
        (b"[" * 100_000, 400, "nested too deeply"),
        (b'{"q": "1", "target": "en", "x": NaN}', 400, "NaN is not JSON"),
        (b'{"q": "1", "q": "2", "target": "en"}', 400, "q: given twice"),
        ({"q": "一"}, 400, "missing target parameter"),
        (b'{"q": "\\ud800", "target": "en"}', 400, "Invalid JSON"),
        ({"q": 5, "target": "en"}, 400, "q.str: Input should be a valid string"),
        ({"q": ["一", None], "target": "en"}, 400, "valid string"),
        ({"q": [], "target": "en"}, 400, "0 texts; expected 1 to 256"),
        ({"q": ["一"] * 257, "target": "en"}, 400, "257 texts; expected 1 to 256"),
        ({"q": "一" * 50_001, "target": "en"}, 413, "50,000 characters"),
        (b" " * (1 << 20) + b"{}", 413, "1,048,576 bytes"),
        ({"q": "一", "target": "fr"}, 400, "auto → fr: there is no such pair; this server has zh → en"),
        ({"q": "一", "target": "en", "source": "de"}, 400, "de → en: there is no such pair"),
        ({"q": "一", "target": "en", "alternatives": 5}, 400, "alternatives: 5; expected 0 to 4"),
        ({"q": "一", "target": "en", "alternatives": -1}, 400, "expected 0 to 4"),
        ({"q": "一", "target": "en", "format": "html"}, 400, "html format is not supported; expected text"),
    ],
)
def test_wrong_requests_are_refused_in_one_line(server: Server, body: Any, status: int, said: str) -> None:
    found = server.ask(body)
    assert found[0] == status and said in found[1]["error"] and set(found[1]) == {"error"}, found


def test_other_routes_methods_and_types_are_refused(server: Server) -> None:
    assert server.ask(b"", path="/nowhere", method="GET") == (404, {"error": "Not Found"})
    assert server.ask(b"", method="GET") == (405, {"error": "Method Not Allowed"})
    status, found = server.ask(b"q=1", **{"Content-Type": "text/plain"})
    assert status == 415 and "application/json" in found["error"]


@pytest.mark.parametrize("text", ["\x00", "\u2028", "e\u0301" * 2000, "一" * 3000, "<s></s>", "\u202e一"])
def test_strange_text_is_translated_or_left(server: Server, expected: list[str], text: str) -> None:
    assert isinstance(server.translated(text), str)
    assert server.translated(TEXTS[7]) == expected[7]


def test_too_much_at_once_is_told_to_come_again(model: Path, expected: list[str]) -> None:
    with serving(model, "--threads", 1, "--in-hand", 20) as server:
        with ThreadPoolExecutor(16) as clients:
            body = {"q": TEXTS[:10], "source": "zh", "target": "en"}
            found = list(clients.map(lambda _: server.ask(body), range(64)))
        statuses = {status for status, _ in found}
        assert statuses == {200, 503}, statuses
        for status, reply in found:
            assert reply["translatedText"] == expected[:10] if status == 200 else "come again" in reply["error"]
        status, reply = server.ask({"q": TEXTS, "target": "en"})  # never, even when nothing is in hand
        assert status == 413 and "60 sentences" in reply["error"] and "20" in reply["error"]


def test_a_worker_that_is_killed_is_replaced_and_nobody_notices(model: Path, expected: list[str]) -> None:
    with serving(model, "--threads", 2) as server, ThreadPoolExecutor(8) as clients:
        found = clients.map(server.translated, [TEXTS] * 40)
        for _ in range(3):
            time.sleep(0.1)
            psutil.Process(server.process.pid).children()[0].kill()
        assert all(each == expected for each in found)
        assert len(psutil.Process(server.process.pid).children()) == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_accepted_requests_are_answered_before_the_server_ends(model: Path, expected: list[str], number: int) -> None:
    with serving(model, "--threads", 2, "--in-hand", 4000) as server, ThreadPoolExecutor(8) as clients:
        assert server.translated(TEXTS[0]) == expected[0]
        workers = psutil.Process(server.process.pid).children()
        found = [clients.submit(server.translated, TEXTS * 4) for _ in range(8)]
        while server.ask(b"", path="/health", method="GET")[1]["in_hand"] < 8:
            time.sleep(0.01)
        for process in (*workers, server.process):  # as a terminal and systemd do
            process.send_signal(number)
        assert all(each.result() == expected * 4 for each in found)
        assert server.process.wait(10) == (-signal.SIGTERM if number == signal.SIGTERM else 130)
        assert not psutil.wait_procs(workers, timeout=5)[1]


def test_workers_end_with_the_server_even_if_it_is_killed(model: Path) -> None:
    with serving(model, "--threads", 2) as server:
        workers = psutil.Process(server.process.pid).children()
        assert len(workers) == 2
        server.process.kill()
        assert not psutil.wait_procs(workers, timeout=10)[1]


def test_replies_leave_at_once() -> None:
    """A socket that is not named TCP is not told to send what it has: each second reply then waits for 40 ms."""
    from regard.serve.run import _listening

    with closing(_listening("127.0.0.1", 0)) as listening:
        assert listening.proto == socket.IPPROTO_TCP


def test_models_that_cannot_be_served_are_said(regard: Regard, model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"127.0.0.1:{port}: cannot listen there" in refused(regard("serve", model, "--port", port))
    assert "another model translates zh → en" in refused(regard("serve", model, "zh-en", "--port", 0))


def test_bench_serve_says_how_long_clients_wait(regard: Regard, workshop: Path, model: Path, tmp_path: Path) -> None:
    picture = tmp_path / "serve.png"
    done = regard(
        "bench", "serve", model, "--source", workshop / "test.zh", "--clients", 1, "--clients", 4, "--seconds", 0.5,
        "--threads", 1, "--json", "--png", picture,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    found = json.loads(done.stdout)
    assert found["file_sentences_per_second"] > 0 and 0 < found["file_share"] < 1.5
    one, four = found["loads"]
    assert (one["clients"], four["clients"]) == (1, 4) and one["requests"] > 0
    for load in (one, four):
        assert 0 < load["milliseconds"]["median"] <= load["milliseconds"]["p99"]
        assert sum(load["parts"].values()) == pytest.approx(1.0) and min(load["parts"].values()) >= 0
    assert picture.read_bytes().startswith(b"\x89PNG")
