"""Requests that are to be answered with 4xx: JSON, forms and HTTP that are broken, each kind in its way."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

Pieces = list[bytes | float]  # what is sent; a number is a pause in seconds
GOOD = {"q": "你好", "source": "zh", "target": "en"}


@dataclass(frozen=True)
class Request:
    """A malformed request. ``gone``: the client ends first, so that no answer is fine too."""

    label: str
    pieces: Pieces
    half_closed: bool = False
    gone: bool = False


def made(number: int, chooser: random.Random) -> Request:
    """One of the kinds, which take turns by number; ``chooser`` fills it."""
    makers = [
        *((f"json: {label}", _json_case(make)) for label, make in JSON.items()),
        *((f"form: {label}", make) for label, make in FORMS.items()),
        *((f"http: {label}", make) for label, make in HTTP.items()),
    ]
    label, make = makers[number % len(makers)]
    found = make(chooser)
    return Request(label, found) if isinstance(found, list) else Request(label, **found)


Chooser = random.Random
Made = Pieces | dict[str, Any]
Maker = Callable[[Chooser], Made]


def request(body: bytes, kind: str = "application/json", *headers: str, path: str = "/translate") -> bytes:
    """A sound request around a body."""
    lines = [
        f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Type: {kind}", f"Content-Length: {len(body)}", *headers,
    ]  # fmt: skip
    return "\r\n".join([*lines, "", ""]).encode() + body


def _json_case(make: Callable[[Chooser], bytes]) -> Maker:
    return lambda chooser: [request(make(chooser), path=chooser.choice(["/translate", "/detect"]))]


def one_of(*bodies: bytes) -> Callable[[Chooser], bytes]:
    return lambda chooser: chooser.choice(bodies)


def _field(value: str) -> bytes:
    """Sound but for the value of one field that the server does not know."""
    return f'{{"q": "你好", "source": "zh", "target": "en", "x": {value}}}'.encode()


def one_field(*values: str) -> Callable[[Chooser], bytes]:
    return one_of(*map(_field, values))


def _wrong_type(chooser: Chooser) -> bytes:
    wrong: dict[str, list[Any]] = {
        "q": [5, 1.5, True, {}, [5], ["一", None], [["一"]], None, [], ["一"] * 257, ["一"] * 100_000],
    }
    name = chooser.choice(list(wrong))
    return json.dumps({**GOOD, name: chooser.choice(wrong[name])}).encode()


def _cut(chooser: Chooser) -> bytes:
    body = json.dumps(GOOD).encode()
    return body[: chooser.randrange(len(body))]


def _depth(chooser: Chooser) -> bytes:
    depth = chooser.choice([2_000, 20_000, 150_000])
    return chooser.choice(
        [b"[" * depth, b'{"a":' * depth, _field("[" * depth + "]" * depth), _field('{"a":' * depth + "1" + "}" * depth)]
    )


JSON: dict[str, Callable[[Chooser], bytes]] = {
    "no number": one_field("NaN", "Infinity", "-Infinity", "[NaN]", "0x10", "01", "+1"),
    "an integer of 5,000 digits": lambda chooser: _field("9" * chooser.randint(5_000, 20_000)),
    "depth": _depth,
    "a name twice": one_field('1, "q": "再见"', '{"a": 1, "a": 1}', '1, "x": 1'),
    "a wrong type": _wrong_type,
    "half of a surrogate pair": one_field('"\\ud800"', '{"\\udfff": 1}', '"\\udc00\\ud800"'),
    "cut off": _cut,
    "another encoding": one_of(*(json.dumps(GOOD).encode(name) for name in ("utf-16", "utf-32", "utf-8-sig"))),
    "not UTF-8": one_of(*(_field('"a"').replace(b"a", byte) for byte in (b"\xff", b"\xc0\x80", b"\xed\xa0\x80"))),
    "random bytes": lambda chooser: chooser.randbytes(chooser.randint(1, 3_000)),
    "something behind it": one_of(*(_field("1") + more for more in (b"{}", b",", b"\x00", b"x"))),
    "no object": one_of(b"", b"[]", b'"q"', b"5", b"null", b"{}", b"[{}]"),
    "another language": one_of(b"{'q': 'a'}", b'{"q": "a",}', b'{q: "a"}', b'{"q": "a" /**/}', b"q=1"),
    "a control character": one_field('"\n"', '"\0"', '"\x1b"'),
    "too long": lambda chooser: b" " * chooser.randint(1_048_577, 1_500_000) + _field("1"),
    "too many characters": lambda chooser: json.dumps({**GOOD, "q": "一" * chooser.randint(50_001, 80_000)}).encode(),
}


def form(kind: str, *bodies: bytes, headers: Sequence[str] = ("",)) -> Maker:
    """One of the bodies as that kind, with one of the headers."""
    return lambda chooser: [request(chooser.choice(bodies), kind, *filter(None, [chooser.choice(headers)]))]


URLENCODED, MULTIPART = "application/x-www-form-urlencoded", "multipart/form-data; boundary=abc"
PART, END = b'--abc\r\nContent-Disposition: form-data; name="q"\r\n\r\n\xe4\xb8\x80\r\n', b"--abc--\r\n"
ELSEWHERE = ("Origin: https://example.org", "Origin: null", "Origin: http://[", "Origin: //localhost:1")

FORMS: dict[str, Maker] = {
    "from another site": form(URLENCODED, b"q=1&target=en", headers=ELSEWHERE),
    "from another site, in parts": form(MULTIPART, PART + END, headers=ELSEWHERE),
    "a name twice": form(URLENCODED, b"q=1&q=2&target=en", b"q=1&x=1&target=en&x=1"),
    "not UTF-8": form(URLENCODED, b"q=%FF&target=en", b"q=\xff&target=en", b"%ff=1&q=1&target=en"),
    "many fields": form(URLENCODED, *(b"&".join(b"x%d=1" % n for n in range(count)) for count in (65, 5_000))),
    "no boundary": form("multipart/form-data", PART + END),
    "cut off, in parts": form(MULTIPART, *((PART + END)[:at] for at in range(1, len(PART), 7))),
    "many parts": form(MULTIPART, PART * 65 + END, PART * 9_000 + END),
    "a file": form(MULTIPART, PART.replace(b'"q"', b'"q"; filename="../x"') + END),
    "a boundary of a kilobyte": form(f"multipart/form-data; boundary={'b' * 1_000}", PART + END),
    "many headers of a part": form(
        MULTIPART, *(PART[:5] + b"X: y\r\n" * count + PART[5:] + END for count in (99, 9_999))
    ),
    "random bytes, in parts": lambda chooser: [request(b"--abc" + chooser.randbytes(2_000), MULTIPART)],
}


def http(*lines: str, body: bytes = b"") -> bytes:
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def post(*headers: str, body: bytes = b"{}") -> bytes:
    return http("POST /translate HTTP/1.1", "Host: localhost", "Content-Type: application/json", *headers, body=body)


def one_http(*whole: bytes) -> Maker:
    return lambda chooser: [chooser.choice(whole)]


def one_line(before: str, choices: Iterable[str], after: str) -> Maker:
    """A request without a body whose first line has one of the choices in it."""
    return one_http(*(http(f"{before}{choice}{after}", "Host: localhost") for choice in choices))


def _much(whole: bytes) -> Maker:
    """More than the server reads: it answers and closes, and the answer may be lost on the way."""
    return lambda chooser: {"pieces": [whole], "gone": True}


def _slow(chooser: Chooser) -> Made:
    """A body that comes byte by byte and never ends, until the client does."""
    pieces: Pieces = [request(json.dumps(GOOD).encode())[: -chooser.randint(10, 20)]]
    return {"pieces": [*pieces, *[0.3, b" "] * 5], "half_closed": True, "gone": True}


def _half(chooser: Chooser) -> Made:
    whole = request(json.dumps(GOOD).encode())
    return {"pieces": [whole[: chooser.randrange(1, len(whole) - 1)]], "half_closed": True, "gone": True}


KINDS = ("text/plain", "application/xml", "application/jsonx", "", "*/*", ";")
CODINGS = ("gzip", "x-gzip", "br", "gzip, gzip")
CHUNKED = "Transfer-Encoding: chunked"
PLACES = (
    "/..%2f..%2fetc%2fpasswd", "/../../etc/passwd", "/%00", "/docs", "/openapi.json", "//x", "/static/../x", "*",
)  # fmt: skip
UPGRADE = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {'A' * 22}==")

HTTP: dict[str, Maker] = {
    "another kind of body": one_http(*(request(_field("1"), kind) for kind in KINDS)),
    "a compressed body": one_http(
        *(
            request(gzip.compress(b" " * 9_000_000, 1), "application/json", f"Content-Encoding: {name}")
            for name in CODINGS
        )
    ),
    "two kinds of length": one_http(post("Content-Length: 2", CHUNKED, body=b"2\r\n{}\r\n0\r\n\r\n")),
    "two lengths": one_http(post("Content-Length: 2", "Content-Length: 3")),
    "no length": one_http(
        *(post(f"Content-Length: {each}") for each in ("-1", "+2", "2,3", "x", "1e3", "9" * 30, "2 2", ""))
    ),
    "a huge length": one_http(*(post(f"Content-Length: {10**n}") for n in range(8, 19))),
    "a bad chunk size": one_http(
        *(
            post(CHUNKED, body=size + b"\r\n{}\r\n0\r\n\r\n")
            for size in (b"zz", b"-2", b"0x2", b"2 2", b"F" * 30, b"", b"\xff")
        )
    ),
    "a chunk without its end": one_http(post(CHUNKED, body=b"2\r\n{}XX0\r\n\r\n")),
    "another transfer encoding": one_http(
        *(post(f"Transfer-Encoding: {name}") for name in ("gzip, chunked", "identity", "x", "chunked, chunked"))
    ),
    "10,000 headers": _much(post(*(f"X-{n}: {n}" for n in range(10_000)), "Content-Length: 2")),
    "a header of a megabyte": _much(post("X: " + "x" * 1_000_000, "Content-Length: 2")),
    "no header": one_http(*(post(line) for line in ("no colon", ": no name", "a b: c", "x: \0", "x: a\rb"))),
    "no host": one_http(http("POST /translate HTTP/1.1", "Content-Length: 2", body=b"{}")),
    "two hosts": one_http(post("Host: other", "Content-Length: 2")),
    "another version": one_line("GET /health HTTP/", ("1", "x", "11.1", "1.1 1.1"), ""),
    "another method": one_line("", ("PUT", "DELETE", "TRACE", "PATCH", "translate", "OPTIONS"), " /translate HTTP/1.1"),
    "another place": one_line("GET ", PLACES, " HTTP/1.1"),
    "a path of 100,000 letters": _much(http(f"GET /{'x' * 100_000} HTTP/1.1", "Host: localhost")),
    "another protocol": one_http(
        b"\x16\x03\x01\x02\x00\x01\r\n\r\n", b"SSH-2.0-x\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    ),
    "a websocket": one_http(http("GET /translate HTTP/1.1", "Host: localhost", *UPGRADE)),
    "closed halfway": _half,
    "a slow body": _slow,
}
