"""Sending workflows the whole of an audience, not only its changes: for a new workflow, or to mend one."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync import outbox
from audience_sync.clock import utcnow
from audience_sync.config import Config
from audience_sync.config.strict import did_you_mean
from audience_sync.database import CHUNK_ROWS, told, writing
from audience_sync.delivery import Progress, WorkflowReport, deliver
from audience_sync.errors import ConfigError, DatabaseError
from audience_sync.outbox.backfill import Page, begin, finish, kept_at, left, place, unfinished, write_chunk
from audience_sync.snapshot import Databases
from audience_sync.state.locks import try_lock
from audience_sync.state.tables import backfills, computations, routes, syncs
from audience_sync.sync.checks import prepare
from audience_sync.warehouse import count_members, stage_members, warehouse_of

PAGE_ROWS = 500_000
"""Members fetched at once from a warehouse that keeps the snapshots: it reads its table once for each page."""
JOB = "backfill"
"""The job under which history shows it."""


@dataclass
class Pair:
    """One computation and one workflow."""

    key: str
    workflow: str
    computation_id: int
    workflow_id: int
    backfill_id: int = 0
    resumed: int = 0
    """Users written by an earlier, unfinished run of the same command."""
    written: int = 0
    finished: bool = False


@dataclass
class BackfillReport:
    pairs: list[Pair]
    stopped: str | None = None
    """Why it stopped before the end; the same command goes on from there."""
    delivered: dict[str, int] = field(default_factory=dict)
    pending: dict[str, int] = field(default_factory=dict)
    dead: dict[str, int] = field(default_factory=dict)

    @property
    def is_done(self) -> bool:
        return self.stopped is None and not any(self.pending.values()) and not any(self.dead.values())

    def as_json(self) -> dict[str, Any]:
        return {
            "done": self.is_done,
            "stopped": self.stopped,
            "backfills": [
                {
                    "key": pair.key,
                    "workflow": pair.workflow,
                    "written_before": pair.resumed,
                    "written": pair.written,
                    "finished": pair.finished,
                }
                for pair in self.pairs
            ],
            "deliveries": [
                {
                    "workflow": name,
                    "delivered": self.delivered[name],
                    "pending": self.pending[name],
                    "dead": self.dead[name],
                }
                for name in self.delivered
            ],
        }


class _Through:
    """One bar for all chunks of a workflow."""

    is_shown = False

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def start(self, workflow: str, total: int) -> None:
        pass

    def advance(self, workflow: str, count: int) -> None:
        self._progress.advance(workflow, count)


def backfill(
    config: Config,
    *,
    audiences: Sequence[str] = (),
    workflows: Sequence[str] = (),
    limit: int | None = None,
    rate: float | None = None,
    include_exited: bool = False,
    progress: Progress | None = None,
    stopping: threading.Event | None = None,
    chunk_rows: int = CHUNK_ROWS,
    **delivering: Any,
) -> BackfillReport:
    """Send current members of the computations of these names (none: of all) to these workflows (none: to all).

    With `include_exited`, who left is told too. `limit` is the most users written, for each computation and workflow;
    `rate` (calls a second) holds where it is lower than the workflow's own. One that was begun and not finished is gone
    on with. `delivering` goes to `delivery.deliver`.
    """
    stop = stopping or threading.Event()
    chosen = config.workflows_named(workflows)
    keys = _chosen_keys(config, audiences)
    databases = Databases.open(config.source, config.state)
    try:
        prepare(config, databases)
        with told("state", config.state), ExitStack() as stack:
            connection = stack.enter_context(databases.state.connect())
            with writing(connection):
                ids = outbox.register_workflows(connection, config.workflows, utcnow())
            with connection.begin():
                pairs = _pairs(connection, config, keys, {name: ids[name] for name in chosen})
            for name in dict.fromkeys(pair.workflow for pair in pairs):
                if not stack.enter_context(try_lock(databases.state, config.state, f"backfill {name}")):
                    raise ConfigError(f"another backfill of {name} is running", "wait for it, or end it")
            report = BackfillReport(pairs)
            sync_id = _begin(connection, pairs, include_exited)
            _announce(connection, databases, pairs, limit, progress)
            slowed = _slowed(config, rate)
            through = _Through(progress) if progress is not None else None
            for pair in pairs:
                _send(connection, slowed, databases, pair, report, limit, chunk_rows, stop, through, delivering)
                if report.stopped is not None:
                    break
            with writing(connection):
                ended = {"finished_at": utcnow(), "error": report.stopped}
                ended["status"] = "succeeded" if report.is_done else "undelivered"
                connection.execute(sa.update(syncs).where(syncs.c.id == sync_id).values(**ended))
            return report
    finally:
        databases.dispose()


def _send(
    connection: Connection,
    config: Config,
    databases: Databases,
    pair: Pair,
    report: BackfillReport,
    limit: int | None,
    chunk_rows: int,
    stop: threading.Event,
    progress: Progress | None,
    delivering: dict[str, Any],
) -> None:
    """Chunk after chunk, each delivered before the next is written, so that the outbox stays short.

    What an earlier run wrote and did not deliver goes out with the first chunk, even an empty one.
    """
    page: Page | None = None
    while not stop.is_set():
        rows = chunk_rows if limit is None else min(chunk_rows, limit - pair.written)
        if rows <= 0:
            return
        with writing(connection):
            wrote = write_chunk(connection, pair.backfill_id, rows, page)
        if wrote is None or (page is not None and wrote.rows < rows and not wrote.is_last):
            page = _next_page(connection, databases, pair)
        if wrote is None:
            continue
        pair.written += wrote.rows
        (found,) = deliver(
            config,
            databases,
            {pair.workflow: pair.workflow_id},
            progress=progress,
            stopping=stop,
            **delivering,
        )
        _note(report, pair, found)
        if report.pending[pair.workflow]:
            report.stopped = f"{found.workflow} ({found.address}): {found.last_error or 'stopped before all was sent'}"
            return
        if wrote.is_last:
            with writing(connection):
                finish(connection, pair.backfill_id, utcnow())
            pair.finished = True
            return
    report.stopped = "stopped before all was sent"


def _next_page(connection: Connection, databases: Databases, pair: Pair) -> Page | None:
    """The next members of a snapshot that the source keeps; None where it keeps none, or all are written."""
    with connection.begin():
        snapshot = kept_at(connection, pair.computation_id)
        at = place(connection, pair.backfill_id)
        warehouse = warehouse_of(connection, databases)
    if snapshot is None or at.at_exited:
        return None
    if warehouse is None:
        raise DatabaseError(f"{pair.key}: its members are in the warehouse: run a sync first, it brings them home")
    try:
        table = stage_members(connection, warehouse, snapshot, after=at.after_user, limit=PAGE_ROWS)
    except DatabaseError:
        with connection.begin():
            moved_on = kept_at(connection, pair.computation_id) != snapshot
        if not moved_on:
            raise
        return _next_page(connection, databases, pair)  # a sync has dropped it since
    with connection.begin():
        rows = connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
    return Page(table, snapshot, is_last=rows < PAGE_ROWS)


def _note(report: BackfillReport, pair: Pair, found: WorkflowReport) -> None:
    mine = {other.computation_id for other in report.pairs if other.workflow == pair.workflow}
    name = pair.workflow
    report.delivered[name] = report.delivered.get(name, 0) + found.delivered(mine)
    report.pending[name], report.dead[name] = found.undelivered(mine), found.dead(mine)


def _chosen_keys(config: Config, names: Sequence[str]) -> list[str]:
    computed = [one for job in config.jobs for one in job.computed]
    keys = []
    for name in names:
        found = next((one for one in computed if name in (one.name, one.key)), None)
        if found is None:
            raise ConfigError(
                f"there is no audience or trait {name!r}", did_you_mean(name, [one.name for one in computed])
            )
        keys.append(found.key)
    return list(dict.fromkeys(keys)) or [one.key for one in computed]


def _pairs(connection: Connection, config: Config, keys: Sequence[str], ids: dict[str, int]) -> list[Pair]:
    """What a sync has told each workflow of before; ConfigError when that is nothing."""
    names = {id_: name for name, id_ in ids.items()}
    rows = connection.execute(
        sa.select(computations.c.key, routes.c.computation_id, routes.c.workflow_id)
        .join(routes, routes.c.computation_id == computations.c.id)
        .where(computations.c.key.in_(keys), routes.c.workflow_id.in_(names), routes.c.ended.is_(False))
    ).all()
    if not rows:
        raise ConfigError(
            "nothing to send: no sync has told these workflows of these audiences yet",
            "`audience-sync run` does, with all members, the first time",
        )
    places = {key: n for n, key in enumerate(keys)}
    rows_ = sorted(rows, key=lambda row: (row.workflow_id, places[row.key]))
    return [Pair(row.key, names[row.workflow_id], row.computation_id, row.workflow_id) for row in rows_]


def _begin(connection: Connection, pairs: Sequence[Pair], include_exited: bool) -> int:
    """A sync's row for history, and a backfill's for each pair that has none unfinished."""
    now = utcnow()
    with writing(connection):
        sync_id: int = connection.execute(
            sa.insert(syncs)
            .values(token=secrets.token_hex(8), job=JOB, as_of=now, started_at=now, status="running")
            .returning(syncs.c.id)
        ).scalar_one()
        for pair in pairs:
            before = unfinished(connection, pair.workflow_id, pair.computation_id)
            if before is None:
                pair.backfill_id = begin(
                    connection, pair.workflow_id, pair.computation_id, sync_id, include_exited=include_exited, now=now
                )
                continue
            pair.backfill_id, pair.resumed = before.id, before.written
            wider = {"include_exited": before.include_exited or include_exited}
            connection.execute(sa.update(backfills).where(backfills.c.id == before.id).values(**wider))
    return sync_id


def _announce(
    connection: Connection,
    databases: Databases,
    pairs: Sequence[Pair],
    limit: int | None,
    progress: Progress | None,
) -> None:
    if progress is None or not progress.is_shown:
        return
    totals: dict[str, int] = {}
    with connection.begin():
        warehouse = warehouse_of(connection, databases)

        def members(snapshot: str, after: str | None) -> int:
            return count_members(warehouse, snapshot, after) if warehouse is not None else 0

        for pair in pairs:
            users = left(connection, pair.backfill_id, members)
            totals[pair.workflow] = totals.get(pair.workflow, 0) + (users if limit is None else min(users, limit))
    for workflow, total in totals.items():
        progress.start(workflow, total)


def _slowed(config: Config, rate: float | None) -> Config:
    if rate is None:
        return config
    slowed = {
        name: workflow.model_copy(update={"rate": min(rate, workflow.rate or rate)})
        for name, workflow in config.workflows.items()
    }
    return config.model_copy(update={"workflows": slowed})
