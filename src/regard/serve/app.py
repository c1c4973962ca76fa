"""The HTTP interface, with LibreTranslate's routes: it checks requests and replies; the worker pool decodes.

    POST /translate           q (text or [texts]), source, target, alternatives
    POST /detect              q: which language it is in
    GET  /languages           which pairs there are
    GET  /frontend/settings   what LibreTranslate's clients ask for first
    GET  /health              {"status": "ok"}, and how many sentences are in hand

Bodies are JSON or forms. A refusal is {"error": …} with a status of 4xx, or 503 with Retry-After where too much is in
hand.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from regard.errors import RegardError
from regard.pipelines import TooMuch, Translation, Translator
from regard.serve.bodies import fields
from regard.serve.capacity import Capacity
from regard.serve.languages import name, ranked
from regard.serve.limits import Limits
from regard.serve.requests import (
    DetectRequest,
    Pair,
    SplitRequest,
    TranslateRequest,
    check_options,
    check_texts,
    known,
    read,
    split,
)
from regard.serve.workers import Caller, ClientLeft, PoolBackend, Unavailable, WorkerPool

SPLIT_AT_ONCE = 8  # requests of the longest kind that wait to be split; each takes a fraction of a second


def build_app(translators: Mapping[Pair, Translator], pool: WorkerPool, limits: Limits) -> FastAPI:
    """The application; each translator's backend is one of the pool's."""

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        app.state.translating = CapacityLimiter(limits.in_hand)  # a request waits in a thread of its own
        app.state.splitting = CapacityLimiter(1)  # one: Python splits one text at a time
        yield

    app = FastAPI(title="regard", docs_url=None, redoc_url=None, openapi_url=None, lifespan=life)
    sentences = Capacity(limits.in_hand, "sentences")
    characters = Capacity(SPLIT_AT_ONCE * limits.characters, "characters")  # that wait to be split into sentences
    _refuse(app)
    _describe(app, translators, pool, limits)

    @app.post("/detect")
    async def detect(request: Request) -> list[dict[str, Any]]:
        texts = check_texts(read(DetectRequest, await fields(request, limits)).q, limits)
        with characters.take(sum(map(len, texts))):
            rows = await to_thread.run_sync(ranked, texts, known(translators), limiter=app.state.splitting)
        return [row for row in rows if row["confidence"]] or rows[:1]

    @app.post("/translate")
    async def translate(request: Request) -> JSONResponse:
        wanted = read(TranslateRequest, await fields(request, limits))
        texts = check_texts(wanted.q, limits)
        check_options(wanted, translators)
        with characters.take(sum(map(len, texts))):
            request_parts = await to_thread.run_sync(split, wanted, translators, limits, limiter=app.state.splitting)
        caller = Caller()
        watch = asyncio.create_task(_leave_with(request, pool, caller))
        try:
            with sentences.take(max(1, request_parts.sentences)):
                found, timing = await to_thread.run_sync(
                    _translated, wanted, request_parts, caller, limiter=app.state.translating
                )
        finally:
            watch.cancel()
        return JSONResponse(_reply(wanted, request_parts, found), headers={"Server-Timing": timing})

    return app


def _describe(app: FastAPI, translators: Mapping[Pair, Translator], pool: WorkerPool, limits: Limits) -> None:
    """The routes that say what the server is and has."""

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "in_hand": pool.in_hand}

    @app.get("/languages")
    async def languages() -> list[dict[str, Any]]:
        return [
            {"code": code, "name": name(code), "targets": [target for source, target in translators if source == code]}
            for code in known(translators)
        ]

    @app.get("/frontend/settings")
    async def settings() -> dict[str, Any]:
        source, target = next(iter(translators))
        return {
            "charLimit": limits.characters,
            "frontendTimeout": 500,  # milliseconds after the last key, LibreTranslate's default
            "apiKeys": False,
            "keyRequired": False,
            "suggestions": False,
            "filesTranslation": False,
            "supportedFilesFormat": [],
            "language": {
                "source": {"code": source, "name": name(source)},
                "target": {"code": target, "name": name(target)},
            },
        }


def _refuse(app: FastAPI) -> None:
    """The replies to errors."""

    @app.exception_handler(RegardError)
    async def refused(request: Request, error: RegardError) -> JSONResponse:
        if isinstance(error, Unavailable):
            return JSONResponse({"error": str(error)}, 503, {"Retry-After": "1"})
        return JSONResponse({"error": str(error)}, 413 if isinstance(error, TooMuch) else 400)

    @app.exception_handler(ClientLeft)
    async def left(request: Request, error: ClientLeft) -> JSONResponse:
        return JSONResponse({"error": "the client has left"}, 400)  # which nobody reads

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> JSONResponse:
        # Starlette raises the error again after this reply, and uvicorn writes its traceback to the log.
        return JSONResponse({"error": "internal error; the server's log says more"}, 500)


async def _leave_with(request: Request, pool: WorkerPool, caller: Caller) -> None:
    """Drop the sentences of a client that closes its connection; after the body nothing else comes from it."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    await to_thread.run_sync(pool.leave, caller)  # a worker may have to be waited for


def _translated(wanted: TranslateRequest, request: SplitRequest, caller: Caller) -> tuple[list[Translation], str]:
    """Translations, and the milliseconds that they waited and were decoded; runs in a thread of its own."""
    if request.unchanged:
        return [Translation(text, [], 0.0, 0.0, []) for text in wanted.texts], "decoding;dur=0"
    backend = request.translator.backend
    assert isinstance(backend, PoolBackend)
    backend.calls.waiting, backend.calls.decoding, backend.calls.caller = 0.0, 0.0, caller
    n_best = min(1 + wanted.alternatives, request.translator.decoding.beam)
    found = request.translator.translate(wanted.texts, n_best=n_best, parts=request.parts, language=request.language)
    spent = {"waiting": backend.calls.waiting, "decoding": backend.calls.decoding}
    return found, ", ".join(f"{name};dur={1000 * seconds:.3f}" for name, seconds in spent.items())


def _reply(wanted: TranslateRequest, request: SplitRequest, found: list[Translation]) -> dict[str, Any]:
    """The fields of LibreTranslate's reply: lists where ``q`` is a list."""
    answers: dict[str, list[Any]] = {"translatedText": [each.text for each in found]}
    if wanted.alternatives:
        answers["alternatives"] = [_others(each) for each in found]
    if request.detected:
        answers["detectedLanguage"] = [request.detected for _ in found]
    return {key: each[0] if isinstance(wanted.q, str) else each for key, each in answers.items()}


def _others(found: Translation) -> list[str]:
    """The alternatives, each text once, without empty texts and the translation itself."""
    texts = dict.fromkeys(other.text for other in found.alternatives)
    return [text for text in texts if text.strip() and text != found.text]
