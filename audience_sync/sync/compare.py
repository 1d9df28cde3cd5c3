"""One computation's snapshot against what was last synced, for plan and run alike."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync import diff
from audience_sync.computations import Computation
from audience_sync.config import Config, Job
from audience_sync.errors import ConfigError
from audience_sync.snapshot import Databases, stage
from audience_sync.state.tables import computations
from audience_sync.sync.reports import ComputationReport


def known(connection: Connection, computation: Computation) -> Any:
    """The computation's row in state, or None."""
    with connection.begin():
        return connection.execute(sa.select(computations).where(computations.c.key == computation.key)).first()


def compare(
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


def orphans(connection: Connection, config: Config, job: Job) -> list[Any]:
    """What state holds for this job and jobs.yaml no longer names."""
    named = {computed.key for other in config.jobs for computed in other.computed}
    rows = connection.execute(
        sa.select(computations)
        .where(computations.c.job == job.key, computations.c.size > 0)
        .order_by(computations.c.key)
    ).all()
    return [row for row in rows if row.key not in named]


def removed(row: Any, job: Job) -> ComputationReport:
    told_false = job.on_remove == "send false"
    return ComputationReport(
        row.key,
        row.name,
        row._mapping["class"],
        size=row.size,
        exited=row.size if told_false else 0,
        removed=True,
    )
