"""All workflows at once, each with its own thread, connection and sender (DESIGN, rule 5)."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import Protocol

import httpx
from sqlalchemy.engine import Connection

from audience_sync import __version__, outbox
from audience_sync.clock import naive
from audience_sync.config import Config, Workflow
from audience_sync.database import is_sqlite, told, writing
from audience_sync.delivery.curl_wire import CurlWire
from audience_sync.delivery.httpx_wire import HttpxWire
from audience_sync.delivery.sender import Patience, Sender, Tally
from audience_sync.delivery.wire import Wire
from audience_sync.redact import web_address
from audience_sync.snapshot import Databases
from audience_sync.state.locks import try_lock
from audience_sync.state.schema import state_id
from audience_sync.state.tables import workflows

LOCK_POLL_SECONDS = 0.1


class Progress(Protocol):
    """Where a sender says how far it is; see `cli.progress`. Called from several threads."""

    is_shown: bool
    """Whether anybody looks: how much there is to do is not counted for nobody."""

    def start(self, workflow: str, total: int) -> None: ...

    def advance(self, workflow: str, count: int) -> None: ...


@dataclass
class WorkflowReport:
    """What one run did for one workflow. `pending` maps computation ids to (undelivered, dead letters)."""

    workflow: str
    address: str
    tally: Tally = field(default_factory=Tally)
    pending: dict[int, tuple[int, int]] = field(default_factory=dict)
    last_error: str | None = None
    seconds: float = 0.0

    def delivered(self, computation_ids: set[int]) -> int:
        return sum(count for id_, count in self.tally.delivered.items() if id_ in computation_ids)

    def superseded(self, computation_ids: set[int]) -> int:
        return sum(count for id_, count in self.tally.superseded.items() if id_ in computation_ids)

    def undelivered(self, computation_ids: set[int]) -> int:
        return sum(waiting for id_, (waiting, _) in self.pending.items() if id_ in computation_ids)

    def dead(self, computation_ids: set[int]) -> int:
        return sum(dead for id_, (_, dead) in self.pending.items() if id_ in computation_ids)


def deliver(
    config: Config,
    databases: Databases,
    workflow_ids: Mapping[str, int],
    *,
    patience: Patience | None = None,
    progress: Progress | None = None,
    transports: Callable[[str], httpx.AsyncBaseTransport] | None = None,
    stopping: threading.Event | None = None,
) -> list[WorkflowReport]:
    """Deliver what is in the outbox for these workflows; returns when each has nothing left or its patience ends.

    `transports` gives an httpx transport for a workflow's name, in place of libcurl. `stopping` is set when the
    process is asked to stop: what is in flight may finish, the rest stays in the outbox.
    """
    stop = stopping or threading.Event()
    if not workflow_ids:
        return []
    _leave_imports_alone()
    with ThreadPoolExecutor(len(workflow_ids), thread_name_prefix="sender") as threads:
        delivering = [
            threads.submit(_one, config, databases, name, id_, patience or Patience(), progress, transports, stop)
            for name, id_ in workflow_ids.items()
        ]
        reports = [future.result() for future in delivering]
    _prune(config, databases)
    return reports


@cache  # once in a process: what comes later must stay collectable
def _leave_imports_alone() -> None:
    """Or each full garbage collection would look through all that was imported: 1 to 3 µs for each delivery."""
    gc.freeze()


def _one(
    config: Config,
    databases: Databases,
    name: str,
    workflow_id: int,
    patience: Patience,
    progress: Progress | None,
    transports: Callable[[str], httpx.AsyncBaseTransport] | None,
    stop: threading.Event,
) -> WorkflowReport:
    workflow = config.workflows[name]
    report = WorkflowReport(name, web_address(workflow.url))
    started = time.monotonic()
    with told("state", config.state), ExitStack() as stack:
        connection = stack.enter_context(databases.state.connect())
        if _our_turn(databases, name, workflow, stack, stop):
            with connection.begin():
                identity = state_id(connection)
            if progress is not None and progress.is_shown:
                progress.start(name, _waiting(connection, workflow_id))
            report.tally = Sender(
                connection=connection,
                name=name,
                workflow_id=workflow_id,
                workflow=workflow,
                wire=_wire(name, workflow, transports),
                state_id=identity,
                space_id=config.space or f"spa_{identity}",
                patience=patience,
                on_progress=lambda count: progress.advance(name, count) if progress else None,
                stopping=stop,
            ).run()
        with connection.begin():
            report.pending = outbox.pending(connection, workflow_id)
            row = connection.execute(workflows.select().where(workflows.c.id == workflow_id)).one()
            report.last_error = report.tally.stopped_because or row.last_error
    report.seconds = time.monotonic() - started
    return report


def _waiting(connection: Connection, workflow_id: int) -> int:
    with connection.begin():
        return sum(count for count, _ in outbox.pending(connection, workflow_id).values())


def _our_turn(databases: Databases, name: str, workflow: Workflow, stack: ExitStack, stop: threading.Event) -> bool:
    """On SQLite one process at a time delivers to a workflow, and also delivers what others have recorded meanwhile;
    elsewhere senders share its lanes."""
    if not is_sqlite(databases.state_url):
        return True
    deadline = time.monotonic() + workflow.max_wait
    while time.monotonic() < deadline and not stop.is_set():
        lock = ExitStack()
        if lock.enter_context(try_lock(databases.state, databases.state_url, f"deliver {name}")):
            stack.push(lock)
            return True
        lock.close()
        stop.wait(LOCK_POLL_SECONDS)
    return False


def _wire(name: str, workflow: Workflow, transports: Callable[[str], httpx.AsyncBaseTransport] | None) -> Wire:
    headers = {"Content-Type": "application/json", "User-Agent": f"audience-sync/{__version__}"}
    return HttpxWire(workflow, headers, transports(name)) if transports else CurlWire(workflow, headers)


def _prune(config: Config, databases: Databases) -> None:
    now = datetime.now(UTC)
    deliveries, history = (keep.before(now) for keep in (config.retention.deliveries, config.retention.history))
    with databases.state.connect() as connection:
        while True:
            with writing(connection):
                gone = outbox.prune(connection, naive(now), deliveries=naive(deliveries), history=naive(history))
            if not gone:
                return
