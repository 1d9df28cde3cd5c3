"""The seam to HTTP: calls go in, answers come out, many in flight, all on the thread that asks.

It is not httpx's `AsyncBaseTransport`, because that seam costs more than the goal allows: with libcurl beneath it, a
request and a response object, a future and a task for each call came to 85 µs against 20 µs for libcurl alone
(docs/benchmarks.md). Any httpx transport can still stand here, through `HttpxWire`.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

KEPT_BYTES = 2048
"""How much of an answer is kept; a workflow's answer says whether it took the call, not more."""


class Answer(NamedTuple):
    """What became of a call. `status` None: there was no whole answer, and `error` says why."""

    status: int | None
    seconds: float
    error: str = ""
    retry_after: float | None = None
    """Seconds that the receiver asks to be left alone."""
    body: bytes = b""
    """The first 2 KB, of answers other than 2xx."""


class Wire(Protocol):
    """One workflow's connection to its URL. Not thread-safe: one thread sends and waits."""

    in_flight: int

    def send(self, token: Any, body: bytes, signature: str | None) -> None:
        """Start a POST; `token` comes back with its answer."""

    def wait(self, timeout: float) -> list[tuple[Any, Answer]]:
        """The answers that have come, after at most `timeout` seconds."""

    def close(self) -> None:
        """Break off what is in flight."""
