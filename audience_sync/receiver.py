"""A stand-in for Tray workflows: each path is a workflow. For `listen`, `demo` and the tests."""

from __future__ import annotations

import asyncio
import hmac
import json
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import uvicorn

Application = Callable[[dict[str, Any], Any, Any], Awaitable[None]]


@dataclass(frozen=True)
class Call:
    """One identify call as it arrived. `signature` is `ok`, `wrong` or `none`; `status` is what was answered."""

    path: str
    body: dict[str, Any]
    signature: str
    status: int
    at: float


@dataclass
class Receiver:
    """Answers calls and remembers what each path was told last.

    `fail` is the share of calls answered with `status`; `delay` is in seconds. `answer` may decide for itself:
    given path and body it returns a status, or None for the usual one.
    """

    shared_secret: str | None = None
    fail: float = 0.0
    status: int = 503
    delay: float = 0.0
    answer: Callable[[str, dict[str, Any]], int | None] | None = None
    on_call: Callable[[Call], None] | None = None
    seed: int | None = None
    keep_calls: bool = True
    calls: list[Call] = field(default_factory=list)
    told: dict[tuple[str, str, str], Any] = field(default_factory=dict)
    """What (path, user, trait key) was told last, by calls that were acknowledged."""
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        raw = b""
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return
            raw += message.get("body", b"")
            if not message.get("more_body"):
                break
        headers = dict(scope["headers"])
        if self.delay:
            await asyncio.sleep(self.delay)
        status = self.take(scope["method"], scope["path"], raw, headers.get(b"x-signature", b"").decode("latin-1"))
        text = b'{"ok":true}' if status < 300 else b'{"ok":false}'
        fields = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(text))]
        await send({"type": "http.response.start", "status": status, "headers": fields})
        await send({"type": "http.response.body", "body": text})

    def take(self, method: str, path: str, raw: bytes, given: str) -> int:
        if method != "POST":
            return 405
        try:
            body = json.loads(raw)
            if not isinstance(body, dict):
                raise ValueError
        except ValueError:
            self.counts["not JSON"] += 1
            return 400
        signature = "none"
        if self.shared_secret:
            expected = hmac.new(self.shared_secret.encode(), raw, "sha1").hexdigest()
            signature = "ok" if hmac.compare_digest(expected, given) else "wrong"
        status = self.answer(path, body) if self.answer else None
        if status is None:
            status = 401 if signature == "wrong" else 200
            if self.fail and self._random.random() < self.fail:
                status = self.status
        call = Call(path, body, signature, status, time.time())
        self.counts["acknowledged" if status < 300 else f"answered {status}"] += 1
        if self.keep_calls:
            self.calls.append(call)
        if status < 300:
            for key, value in (body.get("traits") or {}).items():
                self.told[path, str(body.get("userId")), key] = value
        if self.on_call is not None:
            self.on_call(call)
        return status


class Serving:
    """A receiver, or another ASGI application, served on a thread of its own: `with Serving(receiver) as url`."""

    def __init__(self, receiver: Application, host: str = "127.0.0.1", port: int = 0) -> None:
        self._socket = listening(host, port)
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http://{host}:{self.port}"
        self._server = server(receiver)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), daemon=True)

    def __enter__(self) -> str:
        self._thread.start()
        deadline = time.monotonic() + 10
        while not self._server.started:
            if time.monotonic() > deadline:
                raise TimeoutError("the receiver did not start")
            time.sleep(0.005)
        return self.url

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._server.force_exit = True
        self._thread.join(10)
        self._socket.close()


def listening(host: str, port: int) -> socket.socket:
    """A bound socket; OSError when the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    return bound


def server(receiver: Application) -> uvicorn.Server:
    return uvicorn.Server(
        uvicorn.Config(
            receiver,
            http="httptools",
            ws="none",
            lifespan="off",
            log_level="error",
            access_log=False,
            timeout_keep_alive=75,
            backlog=2048,
        )
    )
