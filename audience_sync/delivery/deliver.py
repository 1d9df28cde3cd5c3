"""All workflows at once, each with its own sender, lock and connection (DESIGN, rule 5)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Protocol

import httpx

from audience_sync import outbox
from audience_sync.config import Config
from audience_sync.database import writing
from audience_sync.delivery.sender import Patience, Sender, Tally
from audience_sync.delivery.transport import CurlTransport
from audience_sync.redact import web_address
from audience_sync.snapshot import Databases
from audience_sync.state.locks import try_lock
from audience_sync.state.schema import state_id

LOCK_POLL_SECONDS = 0.1


class Progress(Protocol):
    """Where a sender says how far it is; see `cli.progress`."""

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
    stopping: Callable[[asyncio.Event, asyncio.AbstractEventLoop], None] | None = None,
) -> list[WorkflowReport]:
    """Deliver what is in the outbox for these workflows; returns when each has nothing left or its patience ends.

    `transports` gives the transport for a workflow's name; by default libcurl. `stopping` is handed an event to
    set when the process is asked to stop.
    """

    async def main() -> list[WorkflowReport]:
        stop = asyncio.Event()
        if stopping is not None:
            stopping(stop, asyncio.get_running_loop())
        return list(
            await asyncio.gather(
                *(
                    _one(config, databases, name, id_, patience or Patience(), progress, transports, stop)
                    for name, id_ in workflow_ids.items()
                )
            )
        )

    try:
        import uvloop
    except ImportError:
        reports = asyncio.run(main())
    else:
        reports = uvloop.run(main())
    _prune(databases)
    return reports


async def _one(
    config: Config,
    databases: Databases,
    name: str,
    workflow_id: int,
    patience: Patience,
    progress: Progress | None,
    transports: Callable[[str], httpx.AsyncBaseTransport] | None,
    stop: asyncio.Event,
) -> WorkflowReport:
    workflow = config.workflows[name]
    report = WorkflowReport(name, web_address(workflow.url))
    started = time.monotonic()
    with ExitStack() as stack:
        connection = stack.enter_context(await asyncio.to_thread(databases.state.connect))
        lock = ExitStack()
        stack.callback(lock.close)
        while not await asyncio.to_thread(
            lambda: lock.enter_context(try_lock(databases.state, databases.state_url, f"deliver {name}"))
        ):
            # Another run delivers to this workflow; it will also deliver what this one has recorded.
            if time.monotonic() - started > patience.total or stop.is_set():
                break
            await asyncio.sleep(LOCK_POLL_SECONDS)
        else:
            with connection.begin():
                identity = state_id(connection)
                waiting = sum(count for count, _ in outbox.pending(connection, workflow_id).values())
            if progress is not None:
                progress.start(name, waiting)
            transport = transports(name) if transports else CurlTransport(workflow.ca_file)
            sender = Sender(
                connection=connection,
                name=name,
                workflow_id=workflow_id,
                workflow=workflow,
                transport=transport,
                state_id=identity,
                space_id=config.space or f"spa_{identity}",
                patience=patience,
                on_progress=lambda count: progress.advance(name, count) if progress else None,
                stopping=stop,
            )
            try:
                report.tally = await sender.run()
            finally:
                await transport.aclose()

        def look() -> None:
            from audience_sync.state.tables import workflows

            with connection.begin():
                report.pending = outbox.pending(connection, workflow_id)
                row = connection.execute(workflows.select().where(workflows.c.id == workflow_id)).one()
                report.last_error = report.tally.stopped_because or row.last_error

        await asyncio.to_thread(look)
    report.seconds = time.monotonic() - started
    return report


def _prune(databases: Databases) -> None:
    with databases.state.connect() as connection:
        while True:
            with writing(connection):
                gone = outbox.prune(connection)
            if not gone:
                return
