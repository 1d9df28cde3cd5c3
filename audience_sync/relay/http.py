"""Segment's HTTP Tracking API over an inbox (Segment's HTTP API: endpoints, authentication, limits, answers)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Protocol

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from audience_sync.clock import utcnow
from audience_sync.config.model import MESSAGES, Relay
from audience_sync.relay.bodies import WriteKeys, too_large, unpack
from audience_sync.relay.messages import (
    LARGEST_BATCH,
    LARGEST_MESSAGE,
    SHORT,
    Message,
    parse,
    read_batch,
    read_one,
)
from audience_sync.relay.refusals import Refused

BODY_SECONDS = 30.0
SUCCESS = b'{"success":true}'
BATCHES = ("batch", "import", "b")
ENDPOINTS = {**{message_type: message_type for message_type in MESSAGES}, **SHORT}


class Keeper(Protocol):
    async def put(self, messages: Sequence[Message]) -> None: ...


Lifespan = Callable[[Starlette], AbstractAsyncContextManager[None]]


def application(
    relay: Relay,
    inbox: Keeper,
    *,
    healthy: Callable[[], bool] = lambda: True,
    lifespan: Lifespan | None = None,
    now: Callable[[], datetime] = utcnow,
) -> Starlette:
    """The ASGI application; `inbox.put` returns once messages are durable, and only then a call is answered."""
    keys = WriteKeys(relay.write_keys)

    async def take(request: Request) -> Response:
        endpoint = request.path_params["endpoint"]
        batch = endpoint in BATCHES
        if not batch and endpoint not in ENDPOINTS:
            raise HTTPException(404)
        try:
            await inbox.put(await read(request, None if batch else ENDPOINTS[endpoint]))
        except Refused as refused:
            return _refusal(refused)
        except ClientDisconnect:
            return Response(status_code=400)
        return Response(SUCCESS, media_type="application/json")

    async def read(request: Request, message_type: str | None) -> list[Message]:
        known = keys.check_header(request.headers.get("authorization", ""))
        limit = LARGEST_BATCH if message_type is None else LARGEST_MESSAGE
        packed = await _body(request, limit)
        payload = parse(unpack(packed, request.headers.get("content-encoding", ""), limit))
        if not known:
            keys.check_body(payload)
        received_at = now()
        channel = "browser" if "origin" in request.headers else "server"
        if message_type is None:
            return read_batch(payload, received_at, channel)
        return [read_one(message_type, payload, received_at, channel)]

    async def health(_request: Request) -> Response:
        well = healthy()
        return _json({"status": "ok" if well else "failing"}, 200 if well else 503)

    cors = Middleware(
        CORSMiddleware,
        allow_origins=relay.origins,
        allow_methods=["POST"],
        allow_headers=["Authorization", "Content-Type", "Content-Encoding"],
        max_age=3600,
    )
    return Starlette(
        routes=[Route("/v1/{endpoint}", take, methods=["POST"]), Route("/healthz", health)],
        middleware=[cors] if relay.origins else [],
        exception_handlers={HTTPException: _http_error},
        lifespan=lifespan,
    )


async def _body(request: Request, limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size > limit:
                    raise too_large(limit)
                parts.append(part)
    except TimeoutError:
        raise Refused(408, "too_slow", f"the body did not arrive within {BODY_SECONDS:.0f} s") from None
    return b"".join(parts)


def _refusal(refused: Refused) -> Response:
    headers = {}
    if refused.status == 401:
        headers["WWW-Authenticate"] = 'Basic realm="relay"'
    if refused.retry_after is not None:
        headers["Retry-After"] = str(refused.retry_after)
    return _json({"success": False, "code": refused.code, "message": refused.message}, refused.status, headers)


async def _http_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    sentence = {404: "there is no such endpoint", 405: "this endpoint takes POST"}.get(error.status_code, error.detail)
    return _json(
        {"success": False, "code": "not_found" if error.status_code == 404 else "not_allowed", "message": sentence},
        error.status_code,
        dict(error.headers or {}),
    )


def _json(document: dict[str, object], status: int, headers: dict[str, str] | None = None) -> Response:
    return Response(json.dumps(document), status, headers, media_type="application/json")
