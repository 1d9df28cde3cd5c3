"""Any `httpx.AsyncBaseTransport` as a wire: slower, and the place for a mock, a recorder, or another client."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Any

import httpx

from audience_sync.config import Workflow
from audience_sync.delivery.verdict import retry_after
from audience_sync.delivery.wire import KEPT_BYTES, Answer


class HttpxWire:
    """Runs the transport on an event loop of its own, whenever it is waited for."""

    def __init__(self, workflow: Workflow, headers: dict[str, str], transport: httpx.AsyncBaseTransport) -> None:
        self.in_flight = 0
        self._url = httpx.URL(workflow.url)
        self._headers = headers
        self._transport = transport
        self._seconds = workflow.timeout
        pieces = {"connect": workflow.connect_timeout, "read": workflow.read_timeout}
        self._extensions = {"timeout": pieces | {"write": workflow.timeout, "pool": workflow.timeout}}
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[tuple[Any, Answer]]] = set()

    def send(self, token: Any, body: bytes, signature: str | None) -> None:
        headers = self._headers if signature is None else self._headers | {"X-Signature": signature}
        request = httpx.Request("POST", self._url, headers=headers, content=body, extensions=self._extensions)
        self._tasks.add(self._loop.create_task(self._call(token, request)))
        self.in_flight += 1

    def wait(self, timeout: float) -> list[tuple[Any, Answer]]:
        if not self._tasks:
            time.sleep(timeout)
            return []
        first = asyncio.FIRST_COMPLETED
        done, self._tasks = self._loop.run_until_complete(asyncio.wait(self._tasks, timeout=timeout, return_when=first))
        self.in_flight = len(self._tasks)
        return [task.result() for task in done]

    def close(self) -> None:
        self._loop.run_until_complete(self._break_off())
        self._loop.close()
        self._tasks.clear()
        self.in_flight = 0

    async def _break_off(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._transport.aclose()

    async def _call(self, token: Any, request: httpx.Request) -> tuple[Any, Answer]:
        started = time.monotonic()
        try:
            async with asyncio.timeout(self._seconds):
                response = await self._transport.handle_async_request(request)
                kept = b""
                if not response.is_success:
                    async for piece in response.aiter_bytes(KEPT_BYTES):
                        kept += piece
                        if len(kept) >= KEPT_BYTES:
                            break
                else:
                    await response.aread()
                await response.aclose()
        except (httpx.TransportError, TimeoutError) as problem:
            return token, Answer(None, time.monotonic() - started, f"{type(problem).__name__}: {problem}")
        asked = retry_after(response.headers.get("retry-after"), datetime.now(UTC))
        return token, Answer(response.status_code, time.monotonic() - started, "", asked, kept[:KEPT_BYTES])
