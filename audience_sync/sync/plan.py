"""What a sync would send."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime

from sqlalchemy.engine import Connection

from audience_sync import diff
from audience_sync.computations import Computation
from audience_sync.config import Config, Job, Source
from audience_sync.database import is_sqlite, open_source, open_state, sqlite_path, told
from audience_sync.errors import AudienceSyncError, ConfigError
from audience_sync.snapshot import Databases, Instant
from audience_sync.state import schema
from audience_sync.sync.checks import chosen_jobs, compile_jobs
from audience_sync.sync.compare import compare, known, orphaned_jobs, orphans, removed, tell_renamed
from audience_sync.sync.reports import ComputationReport, JobReport, RunReport
from audience_sync.warehouse import warehouse_of


def plan(config: Config, names: Sequence[str], as_of: datetime) -> RunReport:
    """What a sync would send. Writes nothing but temporary tables, and makes no state where there is none."""
    jobs = chosen_jobs(config, names)
    fresh = is_sqlite(config.state) and not _has_state(config)
    with ExitStack() as stack:
        if fresh:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            state = f"sqlite:///{folder}/plan.db"
            engine = open_state(state)
            schema.migrate(engine)
            engine.dispose()
            databases = Databases.open(Source(url=state) if config.reads_relay else config.source, state)
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
                report.computations, errors = _planned(connection, databases, job, compiled[job.key])
                with connection.begin():
                    report.computations += [removed(row, job) for row in orphans(connection, config, job)]
                tell_renamed(report.computations)
                if errors:
                    report.status, report.error = "failed", "; ".join(errors)
                elif any(c.held for c in report.computations):
                    report.status = "held"
                reports.append(report)
            if not names:
                with connection.begin():
                    for key, rows in orphaned_jobs(connection, config).items():
                        reports.append(JobReport(key, key, computations=[removed(row, None) for row in rows]))
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


def _planned(
    connection: Connection, databases: Databases, job: Job, compiled: Sequence[Computation]
) -> tuple[list[ComputationReport], list[str]]:
    """What was found, and of those that failed why."""
    reports: dict[int, ComputationReport] = {}
    errors: list[str] = []
    with connection.begin():
        rows = known(connection, compiled)
        warehouse = warehouse_of(connection, databases, rows.values())
    with Instant(connection, databases, compiled, *diff.TEMPORARY) as instant:
        for nr, computation in enumerate(compiled):
            row = rows.get(computation.key)
            try:
                reports[nr] = compare(connection, instant, job, computation, row, nr, warehouse=warehouse).report
            except AudienceSyncError as error:
                if connection.invalidated:
                    raise
                errors.append(f"{computation.name}: {error}")
    with connection.begin():
        for nr, report in reports.items():
            found = {kind: diff.sample(connection, nr, kind) for kind in (diff.ENTERED, diff.EXITED, diff.CHANGED)}
            report.samples = {kind: sample for kind, sample in found.items() if sample}
    return list(reports.values()), errors
