"""The HTTP face, with LibreTranslate's routes: it checks, batches and replies; decoding is the crew's.

    POST /translate   {"q": text or [texts], "source": "zh", "target": "en", "alternatives": 0}
    GET  /languages   which pairs there are
    GET  /health      {"status": "ok"}, and how many sentences are in hand

Whatever is refused is refused with {"error": …} and a status of 4xx, or 503 with Retry-After where there is too much.
"""

from __future__ import annotations

import asyncio
import sys
import traceback
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.exceptions import HTTPException

from regard.errors import RegardError
from regard.pipelines import Part, TooMuch, Translation, Translator
from regard.serve.crew import Crew, CrewEngine, Unavailable
from regard.serve.places import Places

Pair = tuple[str, str]  # source and target language

SPLIT_AT_ONCE = 8  # requests of the longest kind that wait to be split; each takes a fraction of a second


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a request may ask for, and what all may together."""

    body: int = 1 << 20  # bytes of a request
    texts: int = 256  # of a request
    characters: int = 50_000  # of a request's texts together
    in_hand: int = 512  # sentences that are being translated at once, after texts are split; more are refused
    patience: float = 10.0  # seconds for a request's body to arrive


class Wanted(BaseModel):
    """The body of POST /translate."""

    model_config = ConfigDict(strict=True, extra="forbid")

    q: str | list[str]
    source: str = "auto"
    target: str
    format: Literal["text"] = "text"
    alternatives: int = 0
    api_key: str = ""  # LibreTranslate's clients send one; there is none here


def build_app(translators: Mapping[Pair, Translator], crew: Crew, limits: Limits) -> FastAPI:
    """The application; each translator's engine is one of the crew's."""

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        app.state.translating = CapacityLimiter(limits.in_hand)  # a request waits in a thread of its own
        app.state.splitting = CapacityLimiter(1)  # work for Python, which does one thing at a time
        yield

    app = FastAPI(title="regard", docs_url=None, redoc_url=None, openapi_url=None, lifespan=life)
    sentences = Places(limits.in_hand, "sentences")
    characters = Places(SPLIT_AT_ONCE * limits.characters, "characters")  # that wait to be split into sentences

    @app.exception_handler(RegardError)
    async def refused(request: Request, error: RegardError) -> JSONResponse:
        if isinstance(error, Unavailable):
            return JSONResponse({"error": str(error)}, 503, {"Retry-After": "1"})
        return JSONResponse({"error": str(error)}, 413 if isinstance(error, TooMuch) else 400)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> JSONResponse:
        traceback.print_exception(error, file=sys.stderr)
        return JSONResponse({"error": "internal error; the server's log says more"}, 500)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "in_hand": crew.in_hand}

    @app.get("/languages")
    async def languages() -> list[dict[str, Any]]:
        sources = dict.fromkeys(source for source, _ in translators)
        return [
            {"code": code, "name": code, "targets": [target for source, target in translators if source == code]}
            for code in sources
        ]

    @app.post("/translate")
    async def translate(request: Request) -> JSONResponse:
        wanted = _wanted(await _body(request, limits))
        texts = [wanted.q] if isinstance(wanted.q, str) else wanted.q
        translator = _chosen(translators, wanted)
        _check(texts, wanted, translator, limits)
        with characters.take(sum(map(len, texts))):
            parts = await to_thread.run_sync(_split, translator, texts, limits, limiter=app.state.splitting)
        count = sum(bool(part.ids) for of_text in parts for part in of_text)
        with sentences.take(max(1, count)):
            found, timing = await to_thread.run_sync(
                _translated, translator, texts, parts, wanted.alternatives, limiter=app.state.translating
            )
        one = isinstance(wanted.q, str)
        reply: dict[str, Any] = {"translatedText": found[0].text if one else [each.text for each in found]}
        if wanted.alternatives:
            others = [[other.text for other in each.alternatives] for each in found]
            reply["alternatives"] = others[0] if one else others
        return JSONResponse(reply, headers={"Server-Timing": timing})

    return app


async def _body(request: Request, limits: Limits) -> bytes:
    """All of it, counted while it comes."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise HTTPException(415, "expected Content-Type: application/json")
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length[:20]) > limits.body:
        raise HTTPException(413, f"a request may have {limits.body:,} bytes")
    body = bytearray()
    try:
        async with asyncio.timeout(limits.patience):
            async for part in request.stream():
                body += part
                if len(body) > limits.body:
                    raise HTTPException(413, f"a request may have {limits.body:,} bytes")
    except TimeoutError:
        raise HTTPException(408, f"the request did not arrive within {limits.patience:g} seconds") from None
    return bytes(body)


def _wanted(body: bytes) -> Wanted:
    try:
        return Wanted.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the body"
        raise HTTPException(400, f"{where}: {first['msg']}") from None


def _chosen(translators: Mapping[Pair, Translator], wanted: Wanted) -> Translator:
    fit = [
        translator
        for (source, target), translator in translators.items()
        if wanted.target == target and wanted.source in (source, "auto")
    ]
    if len(fit) == 1:
        return fit[0]
    pairs = ", ".join(f"{source} → {target}" for source, target in translators)
    said = "name the source language" if fit else "there is no such pair"
    raise HTTPException(400, f"{wanted.source} → {wanted.target}: {said}; this server has {pairs}")


def _check(texts: list[str], wanted: Wanted, translator: Translator, limits: Limits) -> None:
    if not 1 <= len(texts) <= limits.texts:
        raise HTTPException(400, f"q: {len(texts):,} texts; expected 1 to {limits.texts}")
    if sum(map(len, texts)) > limits.characters:
        raise HTTPException(413, f"q: a request may have {limits.characters:,} characters")
    most = translator.decoding.beam - 1
    if not 0 <= wanted.alternatives <= most:
        raise HTTPException(400, f"alternatives: {wanted.alternatives}; expected 0 to {most}")


def _split(translator: Translator, texts: list[str], limits: Limits) -> list[list[Part]]:
    """The texts as sentences. What is too long is refused before it is split, and its length counts once normalised:
    a character can become eighteen.
    """
    if sum(len(translator.tokenizer.normalize(text)) for text in texts) > limits.characters:
        raise TooMuch(f"q: a request may have {limits.characters:,} characters, after normalisation")
    return translator.parts(texts, most=limits.in_hand)


def _translated(
    translator: Translator, texts: list[str], parts: list[list[Part]], alternatives: int
) -> tuple[list[Translation], str]:
    """In a thread of its own: translations, and where their time went, in milliseconds."""
    engine = translator.engine
    assert isinstance(engine, CrewEngine)
    engine.seconds.waiting = engine.seconds.decoding = 0.0
    found = translator.translate(texts, n_best=1 + alternatives, parts=parts)
    spent = {"waiting": engine.seconds.waiting, "decoding": engine.seconds.decoding}
    return found, ", ".join(f"{name};dur={1000 * seconds:.3f}" for name, seconds in spent.items())
