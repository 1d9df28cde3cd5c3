"""What of a lane is under way: batches read and not yet written down, in order."""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import dataclass, field

from audience_sync.outbox import Attempt, Batch, Delivery, Done, Failure

_OPEN, _ACKNOWLEDGED, _LEFT = 0, 1, 2


class Flight:
    """One batch, from being read to being written down.

    Answers come in any order; what may be written down is the stretch from the start in which every delivery is
    done, for the cursor moves past all of it.
    """

    def __init__(self, batch: Batch, from_seq: int) -> None:
        self.batch = batch
        self.lane = batch.lane
        self.reaches = batch.reaches
        self.deliveries = batch.deliveries
        self.taken = 0
        """How many were handed to the sender."""
        self._done = bytearray(len(batch.deliveries))
        self._written = 0
        self._cursor = from_seq
        self._left: dict[int, tuple[list[Failure], Attempt | None]] = {}
        self._seconds = 0.0

    def acknowledged(self, index: int, seconds: float) -> None:
        self._done[index] = _ACKNOWLEDGED
        self._seconds += seconds

    def left(self, index: int, failures: list[Failure], attempt: Attempt | None) -> None:
        """Not acknowledged. `attempt` None: it was not even tried."""
        self._done[index] = _LEFT
        self._left[index] = failures, attempt

    def shorten(self) -> int:
        """Cut off what was not taken; returns up to where the rest reaches in the outbox."""
        if self.taken < len(self.deliveries):
            self.deliveries = self.deliveries[: self.taken]
            del self._done[self.taken :]
            self.reaches = next((one.seq for one in reversed(self.deliveries) if not one.waited), self._cursor)
        return self.reaches

    @property
    def is_done(self) -> bool:
        return self._done.find(_OPEN, self._written) < 0

    def take(self) -> tuple[Done, Counter[int]] | None:
        """What can be written down now, and what of it was acknowledged, by computation; None when there is nothing.

        Whatever is taken must be written down: it is not given out again.
        """
        upto = self._done.find(_OPEN, self._written)
        whole = upto < 0
        if whole:
            upto = len(self._done)
        cursor = self._cursor
        if whole:
            cursor = self.reaches
        else:
            for index in range(upto - 1, self._written - 1, -1):
                if not self.deliveries[index].waited:
                    cursor = self.deliveries[index].seq
                    break
        if upto == self._written and cursor == self._cursor:
            return None
        stretch = range(self._written, upto)
        acknowledged: Counter[int] = Counter()
        retried: list[Delivery] = []
        failed: list[Failure] = []
        attempts: list[Attempt] = []
        calls = 0
        for index in stretch:
            delivery = self.deliveries[index]
            if self._done[index] == _ACKNOWLEDGED:
                calls += 1
                acknowledged[delivery.computation_id] += 1
                for part in delivery.merged:
                    acknowledged[part.computation_id] += 1
                if delivery.waited:
                    retried += [delivery, *delivery.merged]
            else:
                failures, attempt = self._left.pop(index)
                failed += failures
                if attempt is not None:
                    attempts.append(attempt)
        done = Done(
            lane=self.lane,
            from_seq=self._cursor,
            cursor=cursor,
            acknowledged=calls,
            seconds=self._seconds,
            retried=retried,
            failed=failed,
            attempts=attempts,
        )
        self._written, self._cursor, self._seconds = upto, cursor, 0.0
        return done, acknowledged


@dataclass
class Lane:
    """One lane that this sender holds the lease of."""

    number: int
    read_to: int = 0
    """Up to where deliveries were read."""
    end: int = -1
    """The open window's end; -1 before the first is opened."""
    flights: deque[Flight] = field(default_factory=deque)
    reading: bool = False
    leaving: bool = False
    """To be given up when nothing is under way: another sender has come."""
    looked_at: float = 0.0
    """When it was last read, by `time.monotonic`."""
    found_nothing: bool = False
    """Whether the last reading found nothing to deliver."""
    checkpoints: int = 0
    """How many were asked for."""
    unwritten: set[int] = field(default_factory=set)
    """Leftovers read and not yet written down: a reading asked for before that would bring them again."""
    failed_users: set[str] = field(default_factory=set)
    """Users with a message that failed since the lane was last idle: later ones wait behind it."""

    @property
    def is_idle(self) -> bool:
        return not self.flights and not self.reading

    @property
    def is_seen(self) -> bool:
        """Whether all of it that can be delivered now was."""
        return self.is_idle and self.found_nothing and self.read_to >= self.end

    def board(self, batch: Batch, checkpoints: int) -> Flight | None:
        """Take in a batch that was read, and asked for when the lane had had so many checkpoints."""
        fresh = [one for one in batch.deliveries if not (one.waited and one.seq in self.unwritten)]
        self.unwritten.update(one.seq for one in fresh if one.waited)
        flight = Flight(Batch(batch.lane, fresh, batch.reaches, batch.held_back), self.read_to)
        moved = batch.reaches > self.read_to
        self.read_to = max(self.read_to, batch.reaches)
        self.looked_at = time.monotonic()
        # What was written down since it was asked for may have left something behind.
        self.found_nothing = not batch.deliveries and not moved and checkpoints == self.checkpoints
        if not fresh and not moved:
            return None
        self.flights.append(flight)
        return flight

    def drop_untaken(self) -> None:
        """Leave alone what was not handed out: it stays in the outbox."""
        for flight in self.flights:
            self.unwritten.difference_update(one.seq for one in flight.deliveries[flight.taken :] if one.waited)
            self.read_to = min(self.read_to, flight.shorten())
        self.flights = deque(flight for flight in self.flights if flight.deliveries)
