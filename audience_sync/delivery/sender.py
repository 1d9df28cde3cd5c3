"""One workflow's sender: out of the outbox and onto the wire, until nothing is left or waiting is in vain.

Calls in flight, batches read ahead and checkpoints overlap; what may be lost is bounded all the same. A delivery
that is acknowledged and not yet written down is sent again after a crash, so no more than `AHEAD` of them are ever
past the cursor, and a checkpoint is written for every `BATCH`, or every second where calls are slow.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync import outbox
from audience_sync.clock import utcnow
from audience_sync.config import Workflow
from audience_sync.delivery.body import Identify, Signer, Template, merged_body, template, timestamp
from audience_sync.delivery.flight import Flight, Lane
from audience_sync.delivery.ledger import Ledger
from audience_sync.delivery.pace import Pace
from audience_sync.delivery.verdict import LONGEST_RETRY_AFTER, Verdict, backoff, judge
from audience_sync.delivery.wire import Answer, Wire
from audience_sync.outbox import Attempt, Delivery, Failure
from audience_sync.redact import without_secrets
from audience_sync.state.tables import computations, syncs, workflows

BATCH = 1000
"""Deliveries a commit."""
AHEAD = 4 * BATCH
"""The most deliveries of a lane that can be past its cursor, and so the most that a crash can repeat."""
CHECKPOINT_SECONDS = 1.0
LOOK_SECONDS = 0.25
"""How often leftovers that have come due are looked for."""
BEHIND = "waits behind an earlier message of the user"


@dataclass(frozen=True)
class Patience:
    """How long one run waits for a workflow that does not take its calls, in seconds."""

    silent: float = 30.0
    """For one that has acknowledged nothing in this run: it was down when we came, and the next run will see."""
    total: float | None = None
    """Waiting in all; None: what the workflow's `max_wait` says."""
    first_pause: float = 0.5
    """The longest pause after a first failed attempt; it doubles with each further one."""
    grace: float = 10.0
    """When asked to stop, for what is in flight."""


@dataclass
class Tally:
    """What became of deliveries, by computation id."""

    delivered: Counter[int] = field(default_factory=Counter)
    superseded: Counter[int] = field(default_factory=Counter)
    stopped_because: str | None = None


_Token = tuple[Flight, int, Delivery]


class Sender:
    """Delivers what is in the lanes that it can lease; see `outbox.lanes`."""

    def __init__(
        self,
        *,
        connection: Connection,
        name: str,
        workflow_id: int,
        workflow: Workflow,
        wire: Wire,
        state_id: str,
        space_id: str,
        patience: Patience,
        on_progress: Callable[[int], None],
        stopping: threading.Event,
    ) -> None:
        self.name = name
        self.workflow_id = workflow_id
        self.workflow = workflow
        self.wire = wire
        self.state_id = state_id
        self.space_id = space_id
        self.patience = patience
        self.on_progress = on_progress
        self.stopping = stopping
        self.tally = Tally()
        self.ledger = Ledger(connection)
        self.signer = Signer(workflow.shared_secret) if workflow.shared_secret else None
        self.templates: dict[tuple[int, int], Template] = {}
        self.lanes: dict[int, Lane] = {}
        self.queue: deque[Flight] = deque()
        self.chained: frozenset[int] = frozenset()
        self.merging = False
        self.chains: dict[str, deque[_Token]] = {}
        self.sent_at = b""
        self.slots: deque[float] = deque()
        self.asking_for_slots = False
        self.elsewhere = False
        self.due_at: datetime | None = None
        self.is_finished = False
        self.closing = False
        self.has_peers = connection.dialect.name != "sqlite"
        with connection.begin():
            self.sender = outbox.sender_name(connection)
            row = connection.execute(sa.select(workflows).where(workflows.c.id == workflow_id)).one()
        troubled = row.paused_at is not None or row.breaker_opened_at is not None
        self.pace = Pace(workflow.concurrency, limit=row.in_flight_limit, probing=troubled)
        self.was_open = row.breaker_opened_at is not None
        now = time.monotonic()
        self.renewed_at = self.checkpointed_at = self.started_at = now
        self.heard_of_at: float | None = None
        self.asked_until = now
        self.waited = 0.0

    # -- the loop ---------------------------------------------------------------------------------------------

    def run(self) -> Tally:
        try:
            self._renew()
            self.ledger.take(wait=True)
            while not self.is_finished and not self.stopping.is_set() and self.tally.stopped_because is None:
                self._turn()
            self._wind_up()
        finally:
            self.wire.close()
            self.ledger.close()
        return self.tally

    def _turn(self) -> None:
        now = time.monotonic()
        self.ledger.take()
        if now - self.renewed_at > (LOOK_SECONDS if self.elsewhere else outbox.RENEW_SECONDS):
            self._renew()
        self._read_ahead(now)
        self._start(now)
        if self.wire.in_flight:
            self._heed(self.wire.wait(0.002 if self.ledger else 0.02))
        else:
            self._rest()
        self._write_down()

    def _wind_up(self) -> None:
        """Nothing new is started; what is in flight may finish, and is written down."""
        self.closing = True
        deadline = time.monotonic() + self.patience.grace
        while self.wire.in_flight and time.monotonic() < deadline:
            self._heed(self.wire.wait(0.05))
        for user in list(self.chains):
            self._hold_back(user, utcnow(), "its turn had not come")
        for lane in self.lanes.values():
            lane.drop_untaken()
        self._write_down(all_of_it=True)
        self.ledger.take(wait=True)
        self.ledger.write(self._note_standing, lambda _: None)
        self.ledger.write(lambda c: outbox.release(c, self.workflow_id, self.sender), lambda _: None)
        self.ledger.take(wait=True)

    # -- leases -----------------------------------------------------------------------------------------------

    def _renew(self) -> None:
        self.renewed_at = time.monotonic()
        self.ledger.write(
            lambda connection: outbox.renew(connection, self.workflow_id, self.sender, utcnow()), self._hold
        )

    def _hold(self, held: outbox.Held) -> None:
        for number in held.lanes - self.lanes.keys():
            self.lanes[number] = Lane(number)
        for number in self.lanes.keys() - held.lanes:
            self._lose(self.lanes[number])
        for number, lane in self.lanes.items():
            lane.leaving = number in held.excess
        self.elsewhere = held.elsewhere

    def _lose(self, lane: Lane) -> None:
        """Another holds its lease: what is under way is the other's to write down."""
        self.lanes.pop(lane.number, None)
        self.queue = deque(flight for flight in self.queue if flight.lane != lane.number)

    # -- reading ----------------------------------------------------------------------------------------------

    def _read_ahead(self, now: float) -> None:
        unstarted = sum(len(flight.deliveries) - flight.taken for flight in self.queue)
        for lane in list(self.lanes.values()):
            if lane.reading:
                continue
            if lane.leaving:
                self._leave(lane)
            elif lane.end < 0 or (lane.is_idle and lane.read_to >= lane.end and self._look_again(lane, now)):
                self._open_window(lane)
            elif lane.read_to < lane.end:
                under_way = sum(len(flight.deliveries) for flight in lane.flights)
                if unstarted < BATCH and under_way + BATCH <= AHEAD:
                    self._read(lane)
                    unstarted += BATCH
            elif not lane.is_idle and now - lane.looked_at > LOOK_SECONDS and not self.pace.is_open:
                self._read(lane)

    def _look_again(self, lane: Lane, now: float) -> bool:
        return not lane.found_nothing or now - lane.looked_at > LOOK_SECONDS

    def _leave(self, lane: Lane) -> None:
        self.queue = deque(flight for flight in self.queue if flight.lane != lane.number)
        lane.drop_untaken()
        if not lane.flights:
            del self.lanes[lane.number]
            self.ledger.write(
                lambda connection: outbox.release(connection, self.workflow_id, self.sender, [lane.number]),
                lambda _: None,
            )

    def _open_window(self, lane: Lane) -> None:
        def work(connection: Connection) -> Any:
            opened = outbox.open_window(connection, self.workflow_id, lane.number, utcnow())
            return opened, outbox.chained(connection), outbox.coalescing(connection)

        def then(found: Any) -> None:
            (cursor, end, superseded), self.chained, self.merging = found
            lane.reading = False
            lane.failed_users.clear()
            lane.read_to = cursor
            lane.end = end
            self.tally.superseded.update(superseded)
            self.on_progress(sum(superseded.values()))
            self._read(lane)

        lane.reading = True
        self.ledger.write(work, then)

    def _read(self, lane: Lane) -> None:
        def work(connection: Connection) -> Any:
            now = utcnow()
            batch = outbox.next_batch(
                connection,
                self.workflow_id,
                lane.number,
                after=lane.read_to,
                end=lane.end,
                limit=BATCH,
                now=now,
                merging=self.merging,
            )
            parts = [part for one in batch.deliveries for part in (one, *one.merged)]
            for computation_id, sync_id in {(d.computation_id, d.sync_id) for d in parts} - self.templates.keys():
                self.templates[computation_id, sync_id] = self._template(connection, computation_id, sync_id)
            due = None if batch.deliveries else outbox.next_due(connection, self.workflow_id, sorted(self.lanes))
            return batch, due

        def then(found: Any) -> None:
            lane.reading = False
            if self.lanes.get(lane.number) is not lane or lane.leaving:
                return
            batch, self.due_at = found
            flight = lane.board(batch, checkpoints)
            if flight is not None:
                self.queue.append(flight)

        checkpoints = lane.checkpoints
        lane.reading = True
        self.ledger.read(work, then)

    def _template(self, connection: Connection, computation_id: int, sync_id: int) -> Template:
        what = connection.execute(sa.select(computations).where(computations.c.id == computation_id)).one()
        sync = connection.execute(sa.select(syncs.c.token, syncs.c.as_of).where(syncs.c.id == sync_id)).one()
        klass = what._mapping["class"]
        public = outbox.message_prefix(self.state_id, "", what.key)
        return template(
            key=what.key,
            klass=klass,
            space_id=self.space_id,
            computation_id=("aud_" if klass == "audience" else "tra_") + public,
            message_prefix=outbox.message_prefix(self.state_id, sync.token, self.name),
            as_of=sync.as_of,
        )

    # -- sending ----------------------------------------------------------------------------------------------

    def _start(self, now: float) -> None:
        room = self.pace.room(self.wire.in_flight, now)
        if room <= 0 or not self.queue:
            return
        self.sent_at = timestamp(utcnow())
        rate = self.workflow.rate
        while room > 0 and self.queue:
            flight = self.queue[0]
            if flight.taken >= len(flight.deliveries):
                self.queue.popleft()
                continue
            if rate is not None and not self._slot(now, rate):
                return
            index = flight.taken
            flight.taken += 1
            delivery = flight.deliveries[index]
            if delivery.computation_id in self.chained and not self._may_go((flight, index, delivery)):
                continue
            self._send((flight, index, delivery))
            room -= 1

    def _send(self, token: _Token) -> None:
        delivery = token[2]
        first = self.templates[delivery.computation_id, delivery.sync_id]
        if delivery.merged:
            parts = [
                (self.templates[part.computation_id, part.sync_id], part.value) for part in (delivery, *delivery.merged)
            ]
            known = [(one, value) for one, value in parts if isinstance(one, Identify)]
            body = merged_body(known, delivery.user_id, delivery.seq, self.sent_at)
        else:
            body = first.body(delivery.user_id, delivery.value, delivery.seq, self.sent_at)
        self.wire.send(token, body, self.signer.sign(body) if self.signer else None)

    def _slot(self, now: float, rate: float) -> bool:
        """Whether the rate lets a call start now. Slots are taken for a quarter of a second at a time."""
        if len(self.slots) < max(1, int(rate / 8)) and not self.asking_for_slots:
            count = max(1, int(rate / 4))

            def then(due_in: float) -> None:
                self.asking_for_slots = False
                start = time.monotonic() + due_in
                self.slots.extend(start + n / rate for n in range(count))

            self.asking_for_slots = True
            self.ledger.write(lambda c: outbox.take_slots(c, self.workflow_id, count, rate), then)
        if self.slots and self.slots[0] <= now:
            self.slots.popleft()
            return True
        return False

    def _may_go(self, token: _Token) -> bool:
        """Messages of one user go one by one; one that failed holds back those behind it."""
        flight, _, delivery = token
        user = delivery.user_id
        lane = self.lanes.get(flight.lane)
        if not delivery.waited and (user in flight.batch.held_back or (lane and user in lane.failed_users)):
            self._leave_behind(token, utcnow(), BEHIND)
            return False
        if user in self.chains:
            self.chains[user].append(token)
            return False
        self.chains[user] = deque()
        return True

    def _hold_back(self, user: str, at: datetime, why: str) -> None:
        for token in self.chains.pop(user, ()):
            self._leave_behind(token, at, why)

    def _leave_behind(self, token: _Token, at: datetime, why: str) -> None:
        flight, index, delivery = token
        failure = Failure(delivery, delivery.attempts, why, None, at, chained=True)
        flight.left(index, [failure], None)

    # -- answers ----------------------------------------------------------------------------------------------

    def _heed(self, answers: list[tuple[_Token, Answer]]) -> None:
        now = time.monotonic()
        for token, answer in answers:
            flight, index, delivery = token
            status = answer.status
            if status is not None and 200 <= status < 300:
                flight.acknowledged(index, answer.seconds)
                self.pace.succeeded()
                self.heard_of_at = now
                if delivery.computation_id in self.chained:
                    self._next_in_chain(delivery.user_id)
            else:
                self._failed(token, answer, now)

    def _next_in_chain(self, user: str) -> None:
        chain = self.chains.get(user)
        if not chain:
            self.chains.pop(user, None)
        elif not self.closing:
            self._send(chain.popleft())

    def _failed(self, token: _Token, answer: Answer, now: float) -> None:
        flight, index, delivery = token
        at = utcnow()
        verdict = Verdict.RETRY if answer.status is None else judge(answer.status)
        error = self._without_secrets(answer.error)[:300] or f"answered {answer.status}"
        said = answer.body.decode("utf-8", "replace").replace("\x00", "\ufffd")
        attempts, pause = delivery.attempts, 0.0
        if verdict is Verdict.RETRY:
            # While the breaker is open it is the workflow that fails, whatever it is asked: that tells nothing
            # against the delivery that happens to ask.
            attempts += not self.pace.is_open
            self.pace.failed(now)
            pause = backoff(max(attempts, 1), self.patience.first_pause)
            if answer.retry_after is not None:
                pause = min(answer.retry_after, LONGEST_RETRY_AFTER)
                self.asked_until = max(self.asked_until, now + pause)
                self.pace.hold(now + pause)
        elif verdict is Verdict.WORKFLOW_WRONG:
            self.tally.stopped_because = error
        else:
            attempts += 1
            self.pace.succeeded()  # it answers, if not as we would wish
            self.heard_of_at = now
        dead = verdict is Verdict.REFUSED or self._is_spent(delivery, attempts, at)
        chained = delivery.computation_id in self.chained
        due = at + timedelta(seconds=pause)
        failures = [
            Failure(part, attempts, error, answer.status, due, dead, chained, None if first else delivery.seq)
            for first, part in ((part is delivery, part) for part in (delivery, *delivery.merged))
        ]
        kept = self._without_secrets(said) or None
        flight.left(index, failures, Attempt(delivery, at, answer.seconds, answer.status, error, kept))
        if chained:
            self._break_chain(flight.lane, delivery.user_id, due, dead=dead)

    def _is_spent(self, delivery: Delivery, attempts: int, at: datetime) -> bool:
        """Whether a delivery that failed again is given up on."""
        if attempts == delivery.attempts:
            return False
        age = at - delivery.first_attempt_at if delivery.first_attempt_at else timedelta()
        return attempts >= self.workflow.max_attempts or age > timedelta(seconds=self.workflow.max_age)

    def _break_chain(self, number: int, user: str, due: datetime, *, dead: bool) -> None:
        if dead:
            self._next_in_chain(user)
            return
        if number in self.lanes:
            self.lanes[number].failed_users.add(user)
        self._hold_back(user, due, BEHIND)

    def _without_secrets(self, text: str) -> str:
        return without_secrets(text, self.workflow.url, self.workflow.shared_secret)

    # -- writing ----------------------------------------------------------------------------------------------

    def _write_down(self, *, all_of_it: bool = False) -> None:
        now = time.monotonic()
        timely = all_of_it or now - self.checkpointed_at > CHECKPOINT_SECONDS
        for lane in self.lanes.values():
            while lane.flights and (timely or lane.flights[0].is_done):
                flight = lane.flights[0]
                taken = flight.take()
                if taken is not None:
                    self._checkpoint(lane, *taken)
                if not flight.is_done:
                    break
                lane.flights.popleft()
        if timely:
            self.checkpointed_at = now

    def _checkpoint(self, lane: Lane, done: outbox.Done, acknowledged: Counter[int]) -> None:
        standing = self._standing()
        lane.checkpoints += 1
        lane.found_nothing = False

        def work(connection: Connection) -> bool:
            written = outbox.checkpoint(connection, self.workflow_id, self.sender, done, utcnow())
            if written and standing:
                connection.execute(sa.update(workflows).where(workflows.c.id == self.workflow_id).values(standing))
            return written

        def then(written: bool) -> None:
            if not written:
                self._lose(lane)
                return
            lane.unwritten.difference_update(one.seq for one in done.retried)
            lane.unwritten.difference_update(one.delivery.seq for one in done.failed)
            self.tally.delivered.update(acknowledged)
            self.on_progress(acknowledged.total())

        self.ledger.write(work, then)

    def _standing(self) -> dict[str, Any]:
        """What others should know of the breaker, when it has changed."""
        if self.pace.is_open == self.was_open:
            return {}
        self.was_open = self.pace.is_open
        return {"breaker_opened_at": utcnow() if self.was_open else None}

    def _note_standing(self, connection: Connection) -> None:
        values = {"in_flight_limit": self.pace.limit} | self._standing()
        if self.tally.stopped_because is not None:
            values |= {"paused_at": utcnow(), "last_error": self.tally.stopped_because, "last_error_at": utcnow()}
        connection.execute(sa.update(workflows).where(workflows.c.id == self.workflow_id).values(values))

    # -- waiting ----------------------------------------------------------------------------------------------

    def _rest(self) -> None:
        """Nothing is in flight: wait for the database, for leave to go on, or find that all is done."""
        if self.ledger:
            self.ledger.wait_for_first(0.05)
            return
        now = time.monotonic()
        unsent = any(flight.taken < len(flight.deliveries) for flight in self.queue)
        held_off = self.pace.wait(now)
        if unsent and not held_off:
            if self.slots:  # only the rate holds it back
                self.stopping.wait(min(LOOK_SECONDS, max(0.0, self.slots[0] - now)))
            return
        waits = unsent or self.due_at is not None
        if not waits and not self.elsewhere and all(lane.is_seen for lane in self.lanes.values()):
            if self.has_peers and now - self.renewed_at > LOOK_SECONDS:
                self._renew()  # another may have come since, and not be done
            else:
                self.is_finished = True
        elif waits and self._in_vain(now):
            self.is_finished = True
        elif waits or self.elsewhere:
            pause = LOOK_SECONDS
            if unsent:
                pause = min(pause, held_off)
            elif self.due_at is not None:
                pause = min(pause, max(0.02, (self.due_at - utcnow()).total_seconds()))
            self.waited += pause
            self.stopping.wait(pause)

    def _in_vain(self, now: float) -> bool:
        total = self.workflow.max_wait if self.patience.total is None else self.patience.total
        silent = self.heard_of_at is None and now > self.asked_until and now - self.started_at > self.patience.silent
        return silent or self.waited > total
