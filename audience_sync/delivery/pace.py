"""How hard a workflow is driven: calls in flight, and whether it is asked at all."""

from __future__ import annotations


class Pace:
    """Additive increase, multiplicative decrease under a ceiling (TCP's congestion control, RFC 5681), and a circuit
    breaker. Instants are those of `time.monotonic`.

    The breaker opens after `TRIP` failures without one success between them. While it is open one delivery at a
    time is tried, after pauses that double up to `LONGEST_PAUSE`; the first that succeeds closes it.
    """

    TRIP = 10
    FIRST_PAUSE = 0.25
    LONGEST_PAUSE = 15.0

    def __init__(self, ceiling: int, *, limit: float | None = None, probing: bool = False) -> None:
        self.ceiling = ceiling
        self.limit = min(float(ceiling), max(1.0, limit or 16.0))
        self._growing = True
        self._lowered_at = 0.0
        self._failures = self.TRIP if probing else 0
        self._pause = self.FIRST_PAUSE
        self._not_before = 0.0

    @property
    def is_open(self) -> bool:
        return self._failures >= self.TRIP

    def room(self, in_flight: int, now: float) -> int:
        """How many more calls may start."""
        if now < self._not_before:
            return 0
        return (1 if self.is_open else int(self.limit)) - in_flight

    def wait(self, now: float) -> float:
        """Seconds until it may be asked again."""
        return max(0.0, self._not_before - now)

    def succeeded(self) -> None:
        self._failures = 0
        self._pause = self.FIRST_PAUSE
        if self.limit < self.ceiling:
            self.limit = min(float(self.ceiling), self.limit + (1.0 if self._growing else 1.0 / self.limit))

    def failed(self, now: float) -> None:
        self._failures += 1
        if now - self._lowered_at > 0.1:  # the failures of one moment are one sign
            self._lowered_at = now
            self._growing = False
            self.limit = max(1.0, self.limit / 2)
        if self.is_open:
            self.hold(now + self._pause)
            self._pause = min(self.LONGEST_PAUSE, self._pause * 2)

    def hold(self, until: float) -> None:
        """Leave it alone until then: it asked to be."""
        self._not_before = max(self._not_before, until)
