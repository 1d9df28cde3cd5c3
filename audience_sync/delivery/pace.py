"""How hard a workflow is driven: calls in flight, calls a second, and whether it is asked at all."""

from __future__ import annotations

import asyncio
import time


class Pace:
    """Additive increase, multiplicative decrease under a ceiling (TCP's congestion control, RFC 5681), a token
    bucket for `rate`, and a circuit breaker.

    The breaker opens after `TRIP` failures without one success between them. While it is open one delivery at a
    time is tried, after pauses that double up to `LONGEST_PAUSE`; the first that succeeds closes it.
    """

    TRIP = 10
    FIRST_PAUSE = 0.25
    LONGEST_PAUSE = 15.0

    def __init__(self, ceiling: int, rate: float | None) -> None:
        self.ceiling = ceiling
        self.limit = float(min(ceiling, 16))
        self.rate = rate
        self._growing = True
        self._lowered_at = 0.0
        self._failures = 0
        self._pause = self.FIRST_PAUSE
        self._tokens = 1.0
        self._filled_at = time.monotonic()

    @property
    def is_open(self) -> bool:
        return self._failures >= self.TRIP

    def succeeded(self) -> None:
        self._failures = 0
        self._pause = self.FIRST_PAUSE
        self.limit = min(float(self.ceiling), self.limit + (1.0 if self._growing else 1.0 / self.limit))

    def failed(self) -> None:
        self._failures += 1
        now = time.monotonic()
        if now - self._lowered_at > 0.1:  # the failures of one moment are one sign
            self._lowered_at = now
            self._growing = False
            self.limit = max(1.0, self.limit / 2)

    def next_pause(self) -> float:
        pause = self._pause
        self._pause = min(self.LONGEST_PAUSE, pause * 2)
        return pause

    async def token(self) -> None:
        """Wait for leave to send one call."""
        if self.rate is None:
            return
        while True:
            now = time.monotonic()
            self._tokens = min(max(1.0, self.rate / 10), self._tokens + (now - self._filled_at) * self.rate)
            self._filled_at = now
            if self._tokens >= 1:
                self._tokens -= 1
                return
            await asyncio.sleep((1 - self._tokens) / self.rate)
