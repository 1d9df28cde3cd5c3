"""One sync of a job: computations → snapshot → diff → outbox → delivery, under the job's lock."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync import diff, outbox
from audience_sync.computations import Computation, compile_computation
from audience_sync.computations.catalog import Catalog
from audience_sync.config import Config, Job
from audience_sync.config.strict import did_you_mean
from audience_sync.database import is_sqlite, one_line, open_source, sqlite_path, told, writing
from audience_sync.delivery import Progress, WorkflowReport, deliver
from audience_sync.errors import AudienceSyncError, ConfigError
from audience_sync.snapshot import Databases, stage
from audience_sync.state import schema
from audience_sync.state.locks import try_lock
from audience_sync.state.tables import computations, results, syncs


@dataclass
class ComputationReport:
    key: str
    name: str
    klass: str
    initial: bool = False
    held: bool = False
    size: int = 0
    entered: int = 0
    exited: int = 0
    changed: int = 0
    skipped_ids: int = 0
    seconds: float = 0.0
    held_because: str | None = None
    redefined: bool = False
    removed: bool = False
    samples: dict[str, list[str]] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        shown: dict[str, Any] = {
            "key": self.key,
            "class": self.klass,
            "initial": self.initial,
            "held": self.held,
            "size": self.size,
            "entered": self.entered,
            "exited": self.exited,
            "changed": self.changed,
            "skipped_ids": self.skipped_ids,
            "seconds": round(self.seconds, 3),
        }
        if self.removed:
            shown["removed"] = True
        if self.redefined:
            shown["redefined"] = True
        if self.samples:
            shown["sample"] = self.samples
        return shown


@dataclass
class JobReport:
    job: str
    name: str
    status: str = "succeeded"
    error: str | None = None
    computations: list[ComputationReport] = field(default_factory=list)
    deliveries: list[dict[str, Any]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    """Of each workflow that does not take its calls, one sentence."""

    def as_json(self) -> dict[str, Any]:
        return {
            "job": self.job,
            "status": self.status,
            "error": self.error,
            "computations": [c.as_json() for c in self.computations],
            "deliveries": self.deliveries,
        }


@dataclass
class RunReport:
    as_of: datetime
    jobs: list[JobReport]

    def as_json(self) -> dict[str, Any]:
        return {"as_of": instant_text(self.as_of), "jobs": [job.as_json() for job in self.jobs]}

    @property
    def exit_code(self) -> int:
        statuses = {job.status for job in self.jobs}
        if statuses & {"failed", "undelivered", "skipped"}:
            return 1
        return 3 if "held" in statuses else 0


def instant_text(instant: datetime) -> str:
    text = instant.astimezone(timezone.utc).isoformat(timespec="auto")
    return text.replace("+00:00", "Z")


def chosen_jobs(config: Config, names: Sequence[str]) -> list[Job]:
    """The jobs of these names or keys, or all; ConfigError for one that is not there."""
    if not names:
        return config.jobs
    chosen = []
    for name in names:
        found = [job for job in config.jobs if name in (job.name, job.key)]
        if not found:
            raise ConfigError(f"there is no job {name!r}", did_you_mean(name, [job.name for job in config.jobs]))
        chosen += [job for job in found if job not in chosen]
    return chosen


def naive(instant: datetime) -> datetime:
    return instant.astimezone(timezone.utc).replace(tzinfo=None)


def prepare(config: Config, databases: Databases) -> None:
    """Make sure that state has today's tables: SQLite is brought there, another database's owner is asked to."""
    with told("state", config.state):
        if is_sqlite(config.state):
            schema.migrate(databases.state)
        else:
            schema.require_current(databases.state)


def compile_jobs(
    config: Config, databases: Databases, jobs: Sequence[Job], as_of: datetime
) -> dict[str, list[Computation]]:
    """Compile every computation of the jobs, and have the source check each SELECT, before anything is done.

    All that is wrong is told at once, as ConfigError.
    """
    compiled: dict[str, list[Computation]] = {}
    problems = []
    with told("source", config.source):
        catalog = Catalog(databases.source)
        with databases.source.connect() as connection:
            for job in jobs:
                compiled[job.key] = []
                for computed in [*job.audiences, *job.traits]:
                    try:
                        computation = compile_computation(config, catalog, computed, as_of)
                        nothing = computation.rows.subquery()
                        connection.execute(sa.select(nothing.c.user_id).where(sa.false())).close()
                        compiled[job.key].append(computation)
                    except ConfigError as error:
                        problems += error.problems()
                    except (sa.exc.ProgrammingError, sa.exc.OperationalError, sa.exc.DataError) as error:
                        if getattr(error, "connection_invalidated", False):
                            raise
                        hint = "its sql: must select user_id" + ("" if computed in job.audiences else " and value")
                        given = getattr(computed, "sql", None) is not None
                        problems += ConfigError(
                            f"{config.file}: {job.name} › {computed.name}: the source says: {one_line(error)}",
                            hint if given else "",
                        ).problems()
                        connection.rollback()
    if problems:
        raise ConfigError(problems)
    return compiled


# -- plan -----------------------------------------------------------------------------------------------------


def plan(config: Config, names: Sequence[str], as_of: datetime) -> RunReport:
    """What a sync would send. Writes nothing but temporary tables, and makes no state where there is none."""
    jobs = chosen_jobs(config, names)
    fresh = is_sqlite(config.state) and not _has_state(config)
    with ExitStack() as stack:
        if fresh:
            import tempfile

            folder = stack.enter_context(tempfile.TemporaryDirectory())
            databases = Databases.open(config.source, f"sqlite:///{folder}/plan.db")
            schema.migrate(databases.state)
        else:
            databases = Databases.open(config.source, config.state)
        stack.callback(databases.dispose)
        compiled = compile_jobs(config, databases, jobs, as_of)
        reports = []
        with told("state", config.state), databases.state.connect() as connection:
            connection.begin()
            found = schema.version(connection)
            schema.refuse_newer(found)
            if found != schema.CURRENT:
                raise ConfigError("state: its tables are not those of this version", "run `audience-sync migrate` once")
            connection.rollback()
            for job in jobs:
                report = JobReport(job.key, job.name)
                for computation in compiled[job.key]:
                    report.computations.append(_planned(connection, databases, job, computation))
                with connection.begin():
                    report.computations += [_removed(row, job) for row in _orphans(connection, config, job)]
                if any(c.held for c in report.computations):
                    report.status = "held"
                reports.append(report)
        return RunReport(as_of, reports)


def _has_state(config: Config) -> bool:
    if not sqlite_path(config.state).exists():
        return False
    with told("state", config.state):
        engine = open_source(config.state)  # read-only: a plan must leave the file as it is
        try:
            with engine.connect() as connection:
                return schema.version(connection) is not None
        finally:
            engine.dispose()


def _planned(connection: Connection, databases: Databases, job: Job, computation: Computation) -> ComputationReport:
    started = time.monotonic()
    with connection.begin():
        row = connection.execute(sa.select(computations).where(computations.c.key == computation.key)).first()
    report = _compare(connection, databases, job, computation, row)
    report.samples = {
        kind: sample
        for kind in (diff.ENTERED, diff.EXITED, diff.CHANGED)
        if (sample := _sample(connection, kind))
    }
    report.seconds = time.monotonic() - started
    return report


def _sample(connection: Connection, kind: str) -> list[str]:
    with connection.begin():
        return diff.sample(connection, kind)


def _orphans(connection: Connection, config: Config, job: Job) -> list[Any]:
    """What state holds for this job and jobs.yaml no longer names."""
    named = {computed.key for other in config.jobs for computed in [*other.audiences, *other.traits]}
    rows = connection.execute(
        sa.select(computations).where(computations.c.job == job.key, computations.c.size > 0).order_by(computations.c.key)
    ).all()
    return [row for row in rows if row.key not in named]


def _removed(row: Any, job: Job) -> ComputationReport:
    told_false = job.on_remove == "send false"
    return ComputationReport(
        row.key, row.name, row._mapping["class"], size=row.size, exited=row.size if told_false else 0, removed=True
    )


def _compare(
    connection: Connection, databases: Databases, job: Job, computation: Computation, row: Any
) -> ComputationReport:
    """Stage the snapshot and find the changes; the temporary tables hold both afterwards."""
    if row is not None and row._mapping["class"] != computation.klass:
        raise ConfigError(
            f"{computation.name}: the key {computation.key} was synced as {row._mapping['class']} before",
            "give it another key:",
        )
    initial = row is None or row.first_sync_id is None
    with databases.reading() as source:
        staged = stage(connection, source, computation)
    report = ComputationReport(
        computation.key,
        computation.name,
        computation.klass,
        initial=initial,
        size=staged.size,
        skipped_ids=staged.skipped_ids,
        redefined=not initial and row.definition != computation.definition,
    )
    difference = diff.compare(connection, None if initial else row.id)
    report.entered, report.exited, report.changed = difference.entered, difference.exited, difference.changed
    if not initial:
        report.held_because = diff.must_hold(difference, staged.size, job.guard)
        report.held = report.held_because is not None
    return report


# -- run ------------------------------------------------------------------------------------------------------


def run(
    config: Config,
    names: Sequence[str],
    as_of: datetime,
    *,
    allow_large_change: bool = False,
    progress: Progress | None = None,
    on_computation: Callable[[ComputationReport], None] | None = None,
    **delivering: Any,
) -> RunReport:
    """One sync of each job, one after another, then delivery to all their workflows."""
    jobs = chosen_jobs(config, names)
    databases = Databases.open(config.source, config.state)
    try:
        compiled = compile_jobs(config, databases, jobs, as_of)
        prepare(config, databases)
        with told("state", config.state), ExitStack() as locks:
            reports = []
            held_jobs = []
            for job in jobs:
                report = JobReport(job.key, job.name)
                reports.append(report)
                if not locks.enter_context(try_lock(databases.state, config.state, f"job {job.key}")):
                    report.status, report.error = "skipped", "another sync of this job is running"
                    continue
                held_jobs.append((job, report))
            with databases.state.connect() as connection, writing(connection):
                workflow_ids = outbox.register_workflows(connection, config.workflows, naive(datetime.now(timezone.utc)))
            sync_ids = {}
            for job, report in held_jobs:
                sync_ids[job.key] = _record(
                    config, databases, job, compiled[job.key], as_of, workflow_ids, allow_large_change, report, on_computation
                )
            wanted = {name for job, _ in held_jobs for name in config.job_workflows(job)}
            delivered = deliver(
                config,
                databases,
                {name: workflow_ids[name] for name in config.workflows if name in wanted},
                progress=progress,
                **delivering,
            )
            with databases.state.connect() as connection:
                for job, report in held_jobs:
                    _close(connection, config, job, report, sync_ids[job.key], delivered)
        return RunReport(as_of, reports)
    finally:
        databases.dispose()


def _record(
    config: Config,
    databases: Databases,
    job: Job,
    compiled: Sequence[Computation],
    as_of: datetime,
    workflow_ids: dict[str, int],
    allow_large_change: bool,
    report: JobReport,
    on_computation: Callable[[ComputationReport], None] | None,
) -> int:
    routed = [workflow_ids[name] for name in config.job_workflows(job)]
    errors = []
    with databases.state.connect() as connection:
        with writing(connection):
            sync_id = connection.execute(
                sa.insert(syncs)
                .values(
                    token=secrets.token_hex(8),
                    job=job.key,
                    as_of=naive(as_of),
                    started_at=naive(datetime.now(timezone.utc)),
                    status="running",
                )
                .returning(syncs.c.id)
            ).scalar_one()
        for computation in compiled:
            started = time.monotonic()
            try:
                with told("source", config.source):
                    found = _record_one(
                        connection, databases, job, computation, as_of, sync_id, routed, allow_large_change, started
                    )
            except AudienceSyncError as error:
                if connection.in_transaction():
                    connection.rollback()
                errors.append(f"{computation.name}: {error}")
                continue
            report.computations.append(found)
            if on_computation is not None:
                on_computation(found)
        for removed in list(_remove(connection, config, job, sync_id)):
            report.computations.append(removed)
    if errors:
        report.status, report.error = "failed", "; ".join(errors)
    elif any(c.held for c in report.computations):
        report.status = "held"
    return sync_id


def _record_one(
    connection: Connection,
    databases: Databases,
    job: Job,
    computation: Computation,
    as_of: datetime,
    sync_id: int,
    routed: Sequence[int],
    allow_large_change: bool,
    started: float,
) -> ComputationReport:
    with connection.begin():
        row = connection.execute(sa.select(computations).where(computations.c.key == computation.key)).first()
    report = _compare(connection, databases, job, computation, row)
    report.held = report.held and not allow_large_change
    with writing(connection):
        values = {
            "name": computation.name,
            "job": job.key,
            "removed_at": None,
        }
        if row is None:
            computation_id = connection.execute(
                sa.insert(computations)
                .values(key=computation.key, definition=computation.definition, **{"class": computation.klass}, **values)
                .returning(computations.c.id)
            ).scalar_one()
        else:
            computation_id = row.id
        last_seq = 0
        if not report.held:
            last_seq = outbox.record(
                connection,
                sync_id=sync_id,
                computation_id=computation_id,
                klass=computation.klass,
                initial=report.initial,
                workflow_ids=routed,
            )
            values |= {"definition": computation.definition, "last_as_of": naive(as_of), "size": report.size}
            if report.initial:
                values["first_sync_id"] = sync_id
        connection.execute(sa.update(computations).where(computations.c.id == computation_id).values(**values))
        report.seconds = time.monotonic() - started
        _note_result(connection, sync_id, computation_id, report, last_seq)
    return report


def _note_result(connection: Connection, sync_id: int, computation_id: int, report: ComputationReport, last_seq: int) -> None:
    connection.execute(
        sa.insert(results).values(
            sync_id=sync_id,
            computation_id=computation_id,
            initial=report.initial,
            held=report.held,
            size=report.size,
            entered=report.entered,
            exited=report.exited,
            changed=report.changed,
            skipped_ids=report.skipped_ids,
            seconds=report.seconds,
            last_seq=last_seq,
        )
    )


def _remove(connection: Connection, config: Config, job: Job, sync_id: int) -> Iterator[ComputationReport]:
    """Computations that jobs.yaml no longer names: kept and told, or, with `on_remove: send false`, told false."""
    with connection.begin():
        orphans = _orphans(connection, config, job)
    for row in orphans:
        report = _removed(row, job)
        with writing(connection):
            changed: dict[str, Any] = {"removed_at": row.removed_at or naive(datetime.now(timezone.utc))}
            if job.on_remove == "send false":
                last = outbox.record_removal(
                    connection, sync_id=sync_id, computation_id=row.id, klass=row._mapping["class"]
                )
                changed["size"] = 0
                report.size = 0
                _note_result(connection, sync_id, row.id, report, last)
            connection.execute(sa.update(computations).where(computations.c.id == row.id).values(**changed))
        yield report


def _close(
    connection: Connection,
    config: Config,
    job: Job,
    report: JobReport,
    sync_id: int,
    delivered: Sequence[WorkflowReport],
) -> None:
    mine = set(connection.execute(sa.select(computations.c.id).where(computations.c.job == job.key)).scalars())
    connection.rollback()
    behind = False
    for workflow in delivered:
        if workflow.workflow not in config.job_workflows(job):
            continue
        waiting, dead = workflow.undelivered(mine), workflow.dead(mine)
        behind = behind or waiting + dead > 0
        report.deliveries.append(
            {
                "workflow": workflow.workflow,
                "delivered": workflow.delivered(mine),
                "pending": waiting,
                "dead": dead,
                "superseded": workflow.superseded(mine),
                "seconds": round(workflow.seconds, 3),
            }
        )
        if waiting + dead:
            why = workflow.last_error or "stopped before all was sent"
            report.errors.append(f"{workflow.workflow} ({workflow.address}): {why}")
    if behind and report.status != "failed":
        report.status = "undelivered"
    if behind and report.error is None:
        report.error = "; ".join(report.errors)
    with writing(connection):
        connection.execute(
            sa.update(syncs)
            .where(syncs.c.id == sync_id)
            .values(finished_at=naive(datetime.now(timezone.utc)), status=report.status, error=report.error)
        )
