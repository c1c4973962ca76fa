"""``regard serve`` as a process, and what is asked of it."""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from .conftest import PROGRAM


class Server(NamedTuple):
    process: subprocess.Popen[bytes]
    port: int
    log: list[bytes]  # the lines of standard error so far

    def reply(
        self, body: Any, *, path: str = "/translate", method: str = "POST", **headers: str
    ) -> tuple[int, http.client.HTTPMessage, Any]:
        """Status, headers and JSON of a reply; a body that is not bytes goes as JSON."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            connection.request(method, path, data, {"Content-Type": "application/json", **headers})
            reply = connection.getresponse()
            return reply.status, reply.headers, json.loads(reply.read())

    def ask(self, body: Any, **options: str) -> tuple[int, Any]:
        """Status and JSON of a reply."""
        status, _, found = self.reply(body, **options)
        return status, found

    def translated(self, q: str | list[str]) -> Any:
        status, found = self.ask({"q": q, "source": "zh", "target": "en"})
        assert status == 200, found
        return found["translatedText"]


@contextmanager
def serving(*options: object, program: Sequence[str | Path] = (PROGRAM,)) -> Iterator[Server]:
    process = subprocess.Popen([*program, "serve", *map(str, options), "--port", "0"], stderr=subprocess.PIPE)
    try:
        assert process.stderr is not None
        said = process.stderr.readline().decode()
        place = re.search(r"zh → en at http://127\.0\.0\.1:(\d+) ", said)
        assert place, said + process.stderr.read().decode()
        log: list[bytes] = []
        threading.Thread(target=log.extend, args=(process.stderr,), daemon=True).start()  # so that it can always speak
        yield Server(process, int(place[1]), log)
    finally:
        process.kill()
        process.wait()
