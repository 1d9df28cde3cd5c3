"""One sync of a job: computations → snapshot → diff → outbox → delivery, under the job's lock."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync import diff, logs, outbox
from audience_sync.clock import naive, utcnow
from audience_sync.computations import Computation
from audience_sync.config import Config, Job
from audience_sync.database import settle, told, writing
from audience_sync.delivery import Progress, WorkflowReport, deliver
from audience_sync.diff import Difference
from audience_sync.errors import AudienceSyncError
from audience_sync.snapshot import Databases, Instant
from audience_sync.state.locks import try_lock
from audience_sync.state.tables import computations, handed_over, results, synced, syncs
from audience_sync.sync.checks import chosen_jobs, compile_jobs, open_databases, prepare
from audience_sync.sync.compare import compare, known, orphans, removed, tell_renamed
from audience_sync.sync.reports import ComputationReport, JobReport, RunReport
from audience_sync.warehouse import (
    Keeping,
    Warehouse,
    away,
    bring_home,
    cleanse,
    keeping,
    stage_members,
    sweep,
    warehouse_of,
)

SETTLED_FROM = 50_000
"""Changes in one run from which PostgreSQL is had to tidy `synced`, after delivery, for the next diff's sake."""


def run(
    config: Config,
    names: Sequence[str],
    as_of: datetime,
    *,
    allow_large_change: bool = False,
    progress: Progress | None = None,
    on_computation: Callable[[ComputationReport], None] | None = None,
    stopping: threading.Event | None = None,
    **delivering: Any,
) -> RunReport:
    """One sync of each job, one after another, then delivery to all their workflows.

    `stopping` is set when the process is asked to stop: no other computation is begun. `delivering` goes to
    `delivery.deliver`.
    """
    stop = stopping or threading.Event()
    jobs = chosen_jobs(config, names)
    databases = open_databases(config, writing=True)
    try:
        compiled = compile_jobs(config, databases, jobs, as_of)
        prepare(config, databases)
        with told("state", config.state), ExitStack() as locks:
            reports, syncs_ = [], []
            with databases.state.connect() as connection, writing(connection):
                workflow_ids = outbox.register_workflows(connection, config.workflows, utcnow())
            for job in jobs:
                report = JobReport(job.key, job.name)
                reports.append(report)
                if not locks.enter_context(try_lock(databases.state, config.state, f"job {job.key}")):
                    report.status, report.error = "skipped", "another sync of this job is running"
                    continue
                with databases.state.connect() as connection:
                    sync = _Sync(connection, config, databases, job, report, naive(as_of), workflow_ids, stop)
                    sync.record(compiled[job.key], allow_large_change, on_computation)
                syncs_.append(sync)
            wanted = {name for sync in syncs_ for name in config.job_workflows(sync.job)}
            delivered = deliver(
                config,
                databases,
                {name: workflow_ids[name] for name in config.workflows if name in wanted},
                progress=progress,
                stopping=stop,
                **delivering,
            )
            with databases.state.connect() as connection:
                for sync in syncs_:
                    sync.connection = connection
                    sync.close(delivered)
            found = [computation for report in reports for computation in report.computations]
            if sum(c.entered + c.exited + c.changed for c in found) >= SETTLED_FROM:
                settle(databases.state, [synced.name])
        return RunReport(as_of, reports)
    finally:
        databases.dispose()


@dataclass
class _Found:
    """What one computation's diff found, until it is recorded."""

    computation: Computation
    row: Any
    report: ComputationReport
    difference: Difference
    basis: str | None
    kept: str | None


@dataclass
class _Sync:
    """One job's sync, from the row that says it runs to the row that says how it ended."""

    connection: Connection
    config: Config
    databases: Databases
    job: Job
    report: JobReport
    as_of: datetime
    workflow_ids: dict[str, int]
    stop: threading.Event
    id: int = 0
    token: str = ""
    warehouse: Warehouse | None = None
    keeping: Keeping | None = None
    away: list[Any] = field(default_factory=list)
    """Rows of the computations whose last snapshot a warehouse keeps, as this sync found them."""

    def record(
        self,
        compiled: Sequence[Computation],
        allow_large_change: bool,
        on_computation: Callable[[ComputationReport], None] | None,
    ) -> None:
        """Snapshot and diff of every computation at one instant, then the outbox; one that fails keeps no other."""
        with self.connection.begin():  # before anything is written: it may be refused
            self.away = away(self.connection, self.job.key, [computation.key for computation in compiled])
            warehouse = warehouse_of(self.connection, self.databases, self.away)
            self.warehouse = warehouse if self.databases.keeps_snapshots else None
        with writing(self.connection):
            # Nobody else runs this job: its lock is held. What looks unfinished was ended with its process.
            self.connection.execute(
                sa.update(syncs)
                .where(syncs.c.job == self.job.key, syncs.c.finished_at.is_(None), syncs.c.status == "running")
                .values(status="killed")
            )
            self.token = secrets.token_hex(8)
            self.id = self.connection.execute(
                sa.insert(syncs)
                .values(
                    token=self.token,
                    job=self.job.key,
                    as_of=self.as_of,
                    started_at=utcnow(),
                    status="running",
                )
                .returning(syncs.c.id)
            ).scalar_one()
        errors = []
        found: list[_Found] = []
        if self.warehouse is None and self.away:
            bring_home(self.connection, self.databases, self.token, self.away)
        with self.connection.begin():
            if self.warehouse is not None:
                self.keeping = keeping(self.connection, self.warehouse, self.token)
            rows = known(self.connection, compiled)
        one_instant = self.warehouse is not None and self.warehouse.can.one_instant
        with Instant(
            self.connection,
            self.databases,
            compiled,
            *diff.TEMPORARY,
            keeping=self.warehouse is not None,
            savepoints=one_instant,
        ) as instant:
            for nr, computation in enumerate(compiled):
                if self.stop.is_set():
                    errors.append("asked to stop before all was computed; run again to go on")
                    break
                try:
                    row = rows.get(computation.key)
                    compared = compare(
                        self.connection,
                        instant,
                        self.job,
                        computation,
                        row,
                        nr,
                        warehouse=self.warehouse,
                        keeping=self.keeping,
                        may_be_direct=True,
                    )
                except AudienceSyncError as error:
                    if self.connection.invalidated or instant.is_lost:
                        raise
                    if self.keeping is not None:
                        self.keeping.failed()
                    errors.append(f"{computation.name}: {error}")
                    continue
                compared.report.held = compared.report.held and not allow_large_change
                found.append(_Found(computation, row, *compared))
            diff.weigh(self.connection)
        for one in found:
            try:
                with told("state", self.config.state):
                    self._record(one)
            except AudienceSyncError as error:
                errors.append(f"{one.computation.name}: {error}")
                continue
            self.report.computations.append(one.report)
            if on_computation is not None:
                on_computation(one.report)
        self.report.computations += self._remove(errors)
        if self.warehouse is not None:
            sweep(self.connection, self.warehouse, self.token, [row.snapshot for row in self.away])
        tell_renamed(self.report.computations)
        if errors:
            self.report.status, self.report.error = "failed", "; ".join(errors)
        elif any(c.held for c in self.report.computations):
            self.report.status = "held"

    def _record(self, found: _Found) -> None:
        """The transaction that moves `synced` forward and writes the outbox."""
        computation, report, difference = found.computation, found.report, found.difference
        started = time.monotonic()
        workflow_ids = [self.workflow_ids[name] for name in self.config.job_workflows(self.job)]
        kept_members = None
        if self.warehouse is not None and not report.held:
            is_sent = report.initial or self._somebody_hears_first(found.row.id, workflow_ids)
            kept_members = stage_members(self.connection, self.warehouse, found.kept if is_sent else None)
        with writing(self.connection) as connection:
            values: dict[str, Any] = {
                "name": computation.name,
                "job": self.job.key,
                "coalesced": self.job.coalesce,
                "removed_at": None,
            }
            if found.row is None:
                first = {"key": computation.key, "class": computation.klass, "definition": computation.definition}
                computation_id = connection.execute(
                    sa.insert(computations).values(first | values).returning(computations.c.id)
                ).scalar_one()
            else:
                computation_id = found.row.id
            last_seq = 0
            if not report.held:
                last_seq, written = outbox.record(
                    connection,
                    sync_id=self.id,
                    computation_id=computation_id,
                    klass=computation.klass,
                    initial=report.initial,
                    workflow_ids=workflow_ids,
                    difference=difference,
                    kept_members=kept_members,
                )
                report.entered, report.exited, report.changed = written.entered, written.exited, written.changed
                size: Any = computations.c.size + written.entered - written.exited  # a forget may have made it less
                if report.initial or self.warehouse is not None:
                    size = written.size
                if report.initial:
                    values["first_sync_id"] = self.id
                values |= {"definition": computation.definition, "rule": computation.rule}
                values |= {"last_as_of": self.as_of, "size": size}
                values["basis"] = found.basis
                values["snapshot"] = found.kept
                if self.keeping is not None:
                    values["holds_forgotten"] = self.keeping.holds_forgotten(connection)
            row = sa.update(computations).where(computations.c.id == computation_id).values(values)
            size = connection.execute(row.returning(computations.c.size)).scalar_one()
            if not report.held:
                report.size = size
            report.seconds += time.monotonic() - started
            self._note_result(computation_id, report, last_seq)

    def _somebody_hears_first(self, computation_id: int, workflow_ids: Sequence[int]) -> bool:
        with self.connection.begin():
            return outbox.somebody_hears_first(self.connection, computation_id, workflow_ids)

    def _note_result(self, computation_id: int, report: ComputationReport, last_seq: int) -> None:
        self.connection.execute(
            sa.insert(results).values(
                sync_id=self.id,
                computation_id=computation_id,
                initial=report.initial,
                held=report.held,
                size=report.size,
                entered=report.entered,
                exited=report.exited,
                changed=report.changed,
                skipped_ids=report.skipped_ids,
                held_because=report.held_because if report.held else None,
                seconds=report.seconds,
                last_seq=last_seq,
            )
        )

    def _remove(self, errors: list[str]) -> list[ComputationReport]:
        """Computations that jobs.yaml no longer names: kept and told, or, with `on_remove: send false`, told false."""
        with self.connection.begin():
            rows = orphans(self.connection, self.config, self.job)
        reports = []
        for row in rows:
            report = removed(row, self.job)
            kept_members = None
            if self.warehouse is None and row.snapshot is not None:
                errors.append(f"{row.name}: its last snapshot is in a warehouse and could not be brought home")
                continue
            if self.job.on_remove == "send false" and self.warehouse is not None and row.snapshot is not None:
                try:
                    kept_members = stage_members(self.connection, self.warehouse, row.snapshot)
                except AudienceSyncError as error:
                    errors.append(f"{row.name}: {error}")
                    continue
            with writing(self.connection) as connection:
                changed: dict[str, Any] = {"removed_at": row.removed_at or utcnow()}
                if self.job.on_remove == "send false":
                    last = outbox.record_removal(
                        connection,
                        sync_id=self.id,
                        computation_id=row.id,
                        klass=row._mapping["class"],
                        kept_members=kept_members,
                    )
                    changed |= {"size": 0, "snapshot": None}
                    report.size = 0
                    self._note_result(row.id, report, last)
                connection.execute(sa.update(computations).where(computations.c.id == row.id).values(changed))
            reports.append(report)
        return reports

    def close(self, delivered: Sequence[WorkflowReport]) -> None:
        """Write down how the sync ended, with what each of its workflows took."""
        if self.warehouse is not None:
            try:
                cleanse(self.connection, self.warehouse, self.token, self.job.key)
            except AudienceSyncError as error:  # the next sync's own snapshot holds none of them
                logs.warning(f"forgotten users are still in the warehouse, until the next sync: {error}")
        of_job = sa.select(computations.c.id).where(computations.c.job == self.job.key)
        mine = set(self.connection.execute(of_job).scalars())
        reasons = []
        for workflow in delivered:
            if workflow.workflow not in self.config.job_workflows(self.job):
                continue
            waiting, dead = workflow.undelivered(mine), workflow.dead(mine)
            self.report.deliveries.append(
                {
                    "workflow": workflow.workflow,
                    "delivered": workflow.delivered(mine),
                    "pending": waiting,
                    "dead": dead,
                    "superseded": workflow.superseded(mine),
                    "seconds": round(workflow.seconds, 3),
                }
            )
            if waiting:
                why = workflow.last_error or "stopped before all was sent"
                reasons.append(f"{workflow.workflow} ({workflow.address}): {why}")
            if dead:
                letters = "dead letter" if dead == 1 else "dead letters"
                reasons.append(f"{workflow.workflow}: {dead:,} {letters}; see `audience-sync dead-letters list`")
        if reasons and self.report.status != "failed":
            self.report.status = "undelivered"
        if reasons and self.report.error is None:
            self.report.error = "; ".join(reasons)
        self.report.errors = reasons
        with writing(self.connection):
            if self.report.deliveries:
                self.connection.execute(
                    sa.insert(handed_over),
                    [
                        {**delivery, "workflow_id": self.workflow_ids[delivery["workflow"]], "sync_id": self.id}
                        for delivery in self.report.deliveries
                    ],
                )
            self.connection.execute(
                sa.update(syncs)
                .where(syncs.c.id == self.id)
                .values(finished_at=utcnow(), status=self.report.status, error=self.report.error)
            )
