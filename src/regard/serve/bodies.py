"""Reads the fields of a request's body, JSON or a form; bytes are counted while they arrive.

Browsers send forms to other sites without asking; so a form whose Origin is not this server's own host is refused. They
send JSON to another site only if it allows that, and this server does not.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, NoReturn
from urllib.parse import parse_qsl, urlsplit

from fastapi import Request
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from regard.serve.limits import Limits

FIELDS = 64  # of a form
READ = 4  # times the limit is read: a client that sends a little too much gets a reply, one that sends more is cut off
URLENCODED, MULTIPART = "application/x-www-form-urlencoded", "multipart/form-data"


async def fields(request: Request, limits: Limits) -> dict[str, Any]:
    """The fields of a request's body by name, null ones left out; any other body is refused."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in ("application/json", URLENCODED, MULTIPART):
        raise HTTPException(415, f"expected Content-Type: application/json, {URLENCODED} or {MULTIPART}")
    if kind != "application/json":
        _check_origin(request)
    body = await _read(request, limits)
    if kind == "application/json":
        found = _json(body)
    elif kind == URLENCODED:
        found = _once(_urlencoded(body))
    else:
        found = _once(_multipart(request.headers["content-type"], body))
    return {name: value for name, value in found.items() if value is not None}


async def _read(request: Request, limits: Limits) -> bytes:
    headers = request.headers
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise HTTPException(415, "Content-Encoding: a body must not be compressed")
    if "transfer-encoding" in headers and "content-length" in headers:  # two lengths: a proxy may read the other one
        raise HTTPException(400, "Transfer-Encoding and Content-Length: expected one", {"Connection": "close"})
    too_long = HTTPException(413, f"a request may have {limits.body:,} bytes", {"Connection": "close"})
    if len(length := headers.get("content-length", "0")) > 18 or int(length) > READ * limits.body:
        raise too_long
    body, count = bytearray(), 0
    try:
        async with asyncio.timeout(limits.patience):
            async for part in request.stream():
                count += len(part)
                if count > READ * limits.body:
                    raise too_long
                if count <= limits.body:
                    body += part
    except TimeoutError:
        said = f"the request did not arrive within {limits.patience:g} seconds"
        raise HTTPException(408, said, {"Connection": "close"}) from None
    except ClientDisconnect:
        raise HTTPException(400, "the request ended before its body did") from None
    if count > limits.body:
        raise too_long
    return bytes(body)


def _json(body: bytes) -> dict[str, Any]:
    """A JSON object in UTF-8, as RFC 8259 has it: no NaN, no name twice, no half of a surrogate pair."""
    try:
        found = json.loads(body.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_number)
        json.dumps(found, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise HTTPException(400, "Invalid JSON format: nested too deeply") from None
    except UnicodeEncodeError:
        raise HTTPException(400, "Invalid JSON format: half of a surrogate pair") from None
    except ValueError as error:
        raise HTTPException(400, f"Invalid JSON format: {str(error)[:100]}") from None
    if not isinstance(found, dict):
        raise HTTPException(400, "Invalid JSON format: expected an object")
    return found


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The pairs by name; a name that comes twice is refused, as readers differ in which of its values they take."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise HTTPException(400, f"{name[:40]}: given twice; several texts are an array of JSON")
        found[name] = value
    return found


def _urlencoded(body: bytes) -> list[tuple[str, Any]]:
    try:
        return list(parse_qsl(body.decode("utf-8"), keep_blank_values=True, errors="strict", max_num_fields=FIELDS))
    except UnicodeDecodeError:
        raise HTTPException(400, "Invalid form: it is not UTF-8") from None
    except ValueError as error:
        raise HTTPException(400, f"Invalid form: {error}") from None


def _multipart(content_type: str, body: bytes) -> list[tuple[str, Any]]:
    """The parts of a form, read as UTF-8 whatever charset the form names; files are refused."""
    from python_multipart import FormParser
    from python_multipart.exceptions import FormParserError
    from python_multipart.multipart import parse_options_header

    found: list[tuple[str, Any]] = []
    ended: list[bool] = []

    def on_field(field: Any) -> None:
        if len(found) == FIELDS:
            raise HTTPException(400, f"Invalid form: more than {FIELDS} fields")
        found.append(((field.field_name or b"").decode("utf-8"), (field.value or b"").decode("utf-8")))

    def on_file(file: Any) -> None:
        raise HTTPException(400, "Invalid form: files are not translated here; send their text as q")

    try:
        parser = FormParser(
            MULTIPART, on_field, on_file, lambda: ended.append(True),
            boundary=parse_options_header(content_type)[1].get(b"boundary"),
            config={"MAX_MEMORY_FILE_SIZE": float("inf"), "UPLOAD_ERROR_ON_BAD_CTE": True},
        )  # fmt: skip
        parser.write(body)
        parser.finalize()
    except UnicodeDecodeError:
        raise HTTPException(400, "Invalid form: it is not UTF-8") from None
    except FormParserError as error:
        raise HTTPException(400, f"Invalid form: {str(error)[:100]}") from None
    if not ended:
        raise HTTPException(400, "Invalid form: it ends before its last boundary")
    return found


def _check_origin(request: Request) -> None:
    origin = request.headers.get("origin")
    if origin is None:  # no browser, or a page of this server
        return
    try:
        host = urlsplit(origin).netloc
    except ValueError:
        host = ""
    if not host or host.lower() != request.headers.get("host", "").lower():
        raise HTTPException(403, "forms of other sites are refused; send application/json")
