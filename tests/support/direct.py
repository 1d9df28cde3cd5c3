"""The receiver without a network between: for tests whose point is what is said, not how it travels."""

from __future__ import annotations

import httpx

from audience_sync.receiver import Receiver


class DirectTransport(httpx.AsyncBaseTransport):
    def __init__(self, receiver: Receiver) -> None:
        self.receiver = receiver

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        signature = request.headers.get("x-signature", "")
        return httpx.Response(self.receiver.take(request.method, request.url.path, request.content, signature))
