"""One workflow's sender: batch after batch out of the outbox, until nothing is left or waiting is in vain."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import httpx
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync import __version__, outbox
from audience_sync.clock import utcnow
from audience_sync.config import Workflow
from audience_sync.database import writing
from audience_sync.delivery.body import Template, signature, template, timestamp
from audience_sync.delivery.pace import Pace
from audience_sync.delivery.verdict import Verdict, backoff, judge, retry_after
from audience_sync.outbox import Delivery, Failure
from audience_sync.state.tables import computations, syncs

BATCH = 1000
"""Deliveries a commit, and the most that a crash can repeat."""

OLDEST = timedelta(hours=24)
"""A delivery tried for this long is a dead letter. Attempts alone do not make one: a run may make ten of them
within a minute, and an outage of a minute is no reason to give up."""


@dataclass(frozen=True)
class Patience:
    """How long one run waits for a workflow that does not take its calls, in seconds."""

    silent: float = 30.0
    """With not one acknowledgement for so long, leave the rest for the next run."""
    total: float = 900.0
    """Waiting in all, acknowledgements between or not."""
    first_pause: float = 0.5
    """The longest pause after a first failed attempt; it doubles with each further one."""


@dataclass
class Tally:
    """What became of deliveries, by computation id."""

    delivered: Counter[int] = field(default_factory=Counter)
    superseded: Counter[int] = field(default_factory=Counter)
    stopped_because: str | None = None


class Sender:
    """Must hold the workflow's lock; see `deliver`."""

    def __init__(
        self,
        *,
        connection: Connection,
        name: str,
        workflow_id: int,
        workflow: Workflow,
        transport: httpx.AsyncBaseTransport,
        state_id: str,
        space_id: str,
        patience: Patience,
        on_progress: Callable[[int], None],
        stopping: asyncio.Event,
    ) -> None:
        self.connection = connection
        self.name = name
        self.workflow_id = workflow_id
        self.workflow = workflow
        self.transport = transport
        self.state_id = state_id
        self.space_id = space_id
        self.patience = patience
        self.on_progress = on_progress
        self.stopping = stopping
        self.pace = Pace(workflow.concurrency, workflow.rate)
        self.tally = Tally()
        self.secret = (workflow.shared_secret or "").encode()
        self.templates: dict[tuple[int, int], Template] = {}
        self.base = httpx.Request(
            "POST",
            workflow.url,
            headers={"Content-Type": "application/json", "User-Agent": f"audience-sync/{__version__}"},
            extensions={"timeout": {"connect": workflow.connect_timeout, "read": workflow.timeout}},
        )

    async def run(self) -> Tally:
        await self._open_window()
        progress_at = time.monotonic()
        waited = 0.0
        while not self.stopping.is_set():
            batch = await asyncio.to_thread(self._next_batch)
            if not batch.deliveries:
                await asyncio.to_thread(self._write, batch.reaches, [], [])
                if await self._open_window():
                    continue
                pause = await asyncio.to_thread(self._until_due)
                if pause is None:
                    break
            else:
                acknowledged, halted = await self._send(batch)
                if acknowledged:
                    progress_at = time.monotonic()
                if halted:
                    self.tally.stopped_because = halted
                    break
                if not self.pace.is_open:
                    continue
                pause = self.pace.next_pause()
            silent = time.monotonic() - progress_at
            if silent + pause > self.patience.silent or waited + pause > self.patience.total:
                break
            waited += pause
            try:
                await asyncio.wait_for(self.stopping.wait(), pause)
            except TimeoutError:
                continue
        return self.tally

    async def _open_window(self) -> bool:
        def work() -> tuple[bool, dict[int, int]]:
            with writing(self.connection) as connection:
                return outbox.open_window(connection, self.workflow_id)

        moved, superseded = await asyncio.to_thread(work)
        self.tally.superseded.update(superseded)
        self.on_progress(sum(superseded.values()))
        return moved

    def _next_batch(self) -> outbox.Batch:
        limit = 1 if self.pace.is_open else BATCH
        with self.connection.begin():
            batch = outbox.next_batch(self.connection, self.workflow_id, limit, utcnow())
            wanted = {(d.computation_id, d.sync_id) for d in batch.deliveries} - self.templates.keys()
            for computation_id, sync_id in wanted:
                self.templates[computation_id, sync_id] = self._template(computation_id, sync_id)
        return batch

    def _template(self, computation_id: int, sync_id: int) -> Template:
        what = self.connection.execute(sa.select(computations).where(computations.c.id == computation_id)).one()
        sync = self.connection.execute(sa.select(syncs.c.token, syncs.c.as_of).where(syncs.c.id == sync_id)).one()
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

    async def _send(self, batch: outbox.Batch) -> tuple[int, str | None]:
        """Send a batch and write down what became of it; returns how many were acknowledged, and why to stop if so."""
        acknowledged: list[Delivery] = []
        failed: list[Failure] = []
        queue = iter(batch.deliveries)
        taken = 0
        halted: str | None = None
        probing = self.pace.is_open
        cursor: int | None = None

        async def work(number: int) -> None:
            nonlocal taken, halted, cursor
            while not halted and not self.stopping.is_set() and (probing or not self.pace.is_open):
                if number >= self.pace.limit:
                    if number >= self.pace.ceiling or taken >= len(batch.deliveries):
                        return
                    await asyncio.sleep(0.005)
                    continue
                await self.pace.token()
                delivery = next(queue, None)
                if delivery is None:
                    return
                taken += 1
                if delivery.first_attempt_at is None:
                    cursor = delivery.seq
                verdict, failure = await self._attempt(delivery)
                if verdict is Verdict.ACKNOWLEDGED:
                    acknowledged.append(delivery)
                    self.pace.succeeded()
                    continue
                assert failure is not None
                failed.append(failure)
                if verdict is Verdict.WORKFLOW_WRONG:
                    halted = failure.error
                elif verdict is Verdict.RETRY:
                    self.pace.failed()

        await asyncio.gather(*(work(n) for n in range(min(self.workflow.concurrency, len(batch.deliveries)))))
        if taken == len(batch.deliveries):
            cursor = batch.reaches
        await asyncio.to_thread(self._write, cursor, acknowledged, failed)
        for delivery in acknowledged:
            self.tally.delivered[delivery.computation_id] += 1
        self.on_progress(len(acknowledged))
        return len(acknowledged), halted

    async def _attempt(self, delivery: Delivery) -> tuple[Verdict, Failure | None]:
        body = self.templates[delivery.computation_id, delivery.sync_id].body(
            delivery.user_id, delivery.value, delivery.seq, timestamp(utcnow())
        )
        headers = list(self.base.headers.raw)
        headers.append((b"Content-Length", b"%d" % len(body)))
        if self.secret:
            headers.append((b"X-Signature", signature(self.secret, body).encode()))
        request = httpx.Request("POST", self.base.url, headers=headers, content=body, extensions=self.base.extensions)
        status: int | None = None
        asked: float | None = None
        try:
            response = await self.transport.handle_async_request(request)
            status = response.status_code
            verdict = judge(status)
            if verdict is Verdict.ACKNOWLEDGED:
                return verdict, None
            error = f"answered {status} {response.reason_phrase}".strip()
            asked = retry_after(response.headers.get("retry-after"), datetime.now(UTC))
        except httpx.TransportError as problem:
            verdict, error = Verdict.RETRY, _said(problem)
        now = utcnow()
        attempts = delivery.attempts + 1
        old = delivery.first_attempt_at is not None and now - delivery.first_attempt_at > OLDEST
        dead = verdict is Verdict.REFUSED or (verdict is Verdict.RETRY and old)
        pause = backoff(attempts, self.patience.first_pause) if asked is None else asked
        return verdict, Failure(delivery, error, status, now + timedelta(seconds=pause), dead)

    def _write(self, cursor: int | None, acknowledged: list[Delivery], failed: list[Failure]) -> None:
        with writing(self.connection) as connection:
            outbox.checkpoint(
                connection,
                self.workflow_id,
                cursor=cursor,
                acknowledged=acknowledged,
                failed=failed,
                now=utcnow(),
            )

    def _until_due(self) -> float | None:
        """Seconds until a leftover may be tried again; None when none waits."""
        with self.connection.begin():
            due = outbox.next_due(self.connection, self.workflow_id)
        return None if due is None else max(0.02, (due - utcnow()).total_seconds())


def _said(problem: httpx.TransportError) -> str:
    kind = {
        httpx.ConnectError: "could not be reached",
        httpx.ReadTimeout: "did not answer in time",
    }.get(type(problem), "broke the connection")
    return f"{kind}: {problem}"[:300]
