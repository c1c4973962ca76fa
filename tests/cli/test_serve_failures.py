"""A server whose processes die or cannot be started, whose connections outlive them, or whose own code fails."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from .conftest import PROGRAM, refused
from .servers import Server, serving

LONG = "".join(f"这是第{number}句话，很长很长，也没有什么意思。" for number in range(250))
FAILS = "import sys, regard.serve.app as app; from regard.cli.main import main; app.{} = None; sys.exit(main())"


class Client:
    """A connection that stays open: a server without file descriptors takes no new ones."""

    def __init__(self, server: Server) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        self.connection.connect()

    def ask(self, q: str) -> tuple[int, http.client.HTTPMessage]:
        body = json.dumps({"q": q, "source": "zh", "target": "en"}).encode()
        return self._reply("POST", "/translate", body)[:2]

    def in_hand(self) -> int:
        return int(self._reply("GET", "/health", None)[2]["in_hand"])

    def _reply(self, method: str, path: str, body: bytes | None) -> tuple[int, http.client.HTTPMessage, Any]:
        self.connection.request(method, path, body, {"Content-Type": "application/json"})
        reply = self.connection.getresponse()
        return reply.status, reply.headers, json.loads(reply.read())


def eventually(true: Callable[[], bool], seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.02)
    return true()


def workers(server: Server) -> list[psutil.Process]:
    return [child for child in psutil.Process(server.process.pid).children() if child.status() != psutil.STATUS_ZOMBIE]


@contextmanager
def no_new_files(server: Server) -> Iterator[None]:
    """As on a machine that is full: neither pipes nor processes can be made."""
    process = psutil.Process(server.process.pid)
    soft, hard = process.rlimit(psutil.RLIMIT_NOFILE)
    process.rlimit(psutil.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        process.rlimit(psutil.RLIMIT_NOFILE, (soft, hard))


def test_requests_do_not_hang_when_the_last_worker_ends_and_none_can_be_started() -> None:
    with serving("zh-en", "--threads", 1) as server, ThreadPoolExecutor(1) as threads:
        one, other = Client(server), Client(server)
        assert one.ask("你好")[0] == other.ask("你好")[0] == 200
        asked = threads.submit(one.ask, LONG)
        assert eventually(lambda: other.in_hand() > 0)
        with no_new_files(server):
            workers(server)[0].kill()
            for status, headers in (asked.result(), other.ask("你好")):
                assert status == 503 and headers["Retry-After"] == "1"
            assert other.in_hand() == 0
            time.sleep(2.5)  # several tries
        assert eventually(lambda: other.ask("你好")[0] == 200)
        assert sum(b"no other can be started" in line for line in server.log) == 1, server.log
        assert not any(b"Traceback" in line for line in server.log), server.log


def test_the_other_workers_decode_on_while_one_cannot_be_replaced() -> None:
    with serving("zh-en", "--threads", 2) as server, ThreadPoolExecutor(1) as threads:
        one, other = Client(server), Client(server)
        assert one.ask("你好")[0] == other.ask("你好")[0] == 200
        asked = threads.submit(one.ask, LONG[:2000])
        assert eventually(lambda: other.in_hand() > 0)
        with no_new_files(server):
            workers(server)[0].kill()
            assert asked.result()[0] == 200
            assert [other.ask("你好")[0] for _ in range(4)] == [200] * 4
        assert eventually(lambda: len(workers(server)) == 2)


@pytest.mark.parametrize("header", ["Connection: close", "Content-Length: 3"])
def test_a_client_sees_that_its_connection_is_closed_after_a_worker_was_replaced(model: Path, header: str) -> None:
    """The server closes it: after the reply, as the client wants it, or since the request has two lengths."""
    with serving(model, "--threads", 1) as server:
        server.translated("一")
        body = json.dumps({"q": "一", "target": "en"}).encode()
        head = f"POST /translate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
            client.sendall(head.encode())
            (old,) = workers(server)
            old.kill()
            assert eventually(lambda: workers(server) not in ([], [old]))
            assert server.translated("一")
            client.sendall(f"\r\n{header}\r\n\r\n".encode() + body)
            while client.recv(4096):  # a TimeoutError where the end does not come
                pass


@pytest.mark.parametrize("replaced", [False, True])
def test_nobody_can_connect_to_a_server_that_is_ending(replaced: bool) -> None:
    with serving("zh-en", "--threads", 1) as server, ThreadPoolExecutor(1) as threads:
        server.translated("你好")
        if replaced:
            (old,) = workers(server)
            old.kill()
            assert eventually(lambda: workers(server) not in ([], [old]))
            server.translated("你好")
        one, other = Client(server), Client(server)
        asked = threads.submit(one.ask, LONG)
        assert eventually(lambda: other.in_hand() > 0)
        server.process.send_signal(signal.SIGTERM)

        def refused() -> bool:
            with closing(socket.socket()) as probe:
                return probe.connect_ex(("127.0.0.1", server.port)) != 0

        assert eventually(refused, 5.0)
        assert server.process.poll() is None and not asked.done(), "it had ended already"


@pytest.mark.parametrize("name", ["_reply", "check_texts"])
def test_an_error_of_the_server_itself_is_logged_once_and_answered_with_500(model: Path, name: str) -> None:
    with serving(model, "--threads", 1, program=(sys.executable, "-c", FAILS.format(name))) as server:
        status, found = server.ask({"q": "一", "target": "en"})
        assert status == 500 and found == {"error": "internal error; the server's log says more"}
        said = b"TypeError: 'NoneType' object is not callable\n"
        assert eventually(lambda: said in server.log, 5.0)
        assert server.ask({"q": 5, "target": "en"})[0] == 400  # what the first one wrote has come by then
        assert server.log.count(said) == 1, server.log


def test_more_processes_than_the_system_allows_are_refused_in_one_line(model: Path) -> None:
    line = f'ulimit -n 48; exec "{PROGRAM}" serve "{model}" --port 0 --threads 60'
    done = subprocess.run(["bash", "-c", line], capture_output=True, timeout=60, check=False)
    said = refused(done)
    assert "cannot start 60 decoding processes" in said and "use fewer --threads" in said
