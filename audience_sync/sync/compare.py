"""One computation's snapshot against what was last synced, for plan and run alike."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync import diff
from audience_sync.computations import Basis, ChangedRows, Computation, Follower
from audience_sync.config import Config, Job
from audience_sync.database import told
from audience_sync.diff import Difference
from audience_sync.errors import ConfigError, DatabaseError
from audience_sync.snapshot import Instant
from audience_sync.state.tables import computations
from audience_sync.sync.reports import ByRule, ComputationReport
from audience_sync.warehouse import Keeping, Warehouse
from audience_sync.warehouse import compare as compare_in_warehouse

SAMPLE = 5


class Compared(NamedTuple):
    """What was found of one computation.

    `basis` is what the next sync may start from, once this one is recorded; `kept` the warehouse's table that holds the
    snapshot, where it keeps them.
    """

    report: ComputationReport
    difference: Difference
    basis: str | None
    kept: str | None


def known(connection: Connection, found: Sequence[Computation]) -> dict[str, Any]:
    """The rows in state of these computations, by key."""
    keys = [computation.key for computation in found]
    rows = connection.execute(sa.select(computations).where(computations.c.key.in_(keys)))
    return {row.key: row for row in rows}


def compare(
    connection: Connection,
    instant: Instant,
    job: Job,
    computation: Computation,
    row: Any,
    nr: int,
    *,
    warehouse: Warehouse | None,
    keeping: Keeping | None = None,
    may_be_direct: bool = False,
) -> Compared:
    """Find one computation's changes, into the temporary table `changes` under the number `nr`.

    In the `warehouse`, where there is one: `keeping` writes the snapshot there, None leaves all as it is.
    """
    if row is not None and row._mapping["class"] != computation.klass:
        raise ConfigError(
            f"{computation.name}: the key {computation.key} was synced as {row._mapping['class']} before",
            "give it another key:",
        )
    if warehouse is None and row is not None and row.snapshot is not None:
        raise DatabaseError(f"its last snapshot, {row.snapshot}, is in a warehouse and could not be brought home")
    initial = row is None or row.first_sync_id is None
    follower: Follower | ChangedRows | None = computation.follower if warehouse is None else None
    basis = _basis(follower, row, computation.definition)
    follows = follower is not None and basis is not None and follower.as_of < job.full_every.after(basis.full_as_of)
    url = instant.databases.source_url
    started = time.monotonic()
    if not follows:
        computation = instant.shared(computation)
    with instant.reading() as source:
        reader = connection if source is None else source
        counts = computation.skipped
        if follower is not None and basis is not None and follows:
            counts = follower.skipped(basis)
        with told("source", url):
            # Read first: what arrives from here on is looked at again by the next sync.
            read: dict[str, Any] = {}
            if follower is not None:
                read = follower.read(lambda query: reader.execute(query).scalar(), basis, full=not follows)
            skipped = sum(reader.execute(count).scalar_one() for count in counts)
        missed = 0
        kept = None
        if warehouse is not None:
            assert source is not None, "a warehouse is read through its own connection"
            difference, kept = compare_in_warehouse(connection, source, warehouse, keeping, computation, row, nr)
        elif isinstance(follower, ChangedRows) and basis is not None and follows:
            now = read["count"]
            difference = diff.compare_changed(connection, source, computation, basis, now, row.id, row.size, nr, url)
        elif isinstance(follower, Follower) and basis is not None and follows:
            difference = diff.compare_candidates(connection, source, follower, basis, row.id, row.size, nr, url)
        else:
            row_id, before = (None, 0) if initial else (row.id, row.size)
            may_be_direct = may_be_direct and not isinstance(follower, ChangedRows)  # which asks how many there are
            difference = diff.compare(
                connection, source, computation, row_id, before, nr, url, may_be_direct=may_be_direct
            )
            if basis is not None and difference.total:
                if isinstance(follower, ChangedRows):
                    now = read["count"] if basis.unique else difference.users
                    missed = diff.missed_rows(connection, source, follower, basis, now, nr, url)
                elif follower is not None:
                    missed = diff.missed(connection, source, follower, basis, nr, url)
        redefined = not initial and row.definition != computation.definition
        by_rule = _by_rule(reader, computation, row.rule) if redefined else None
    report = ComputationReport(
        computation.key,
        computation.name,
        computation.klass,
        initial=initial,
        size=difference.size,
        entered=difference.entered,
        exited=difference.exited,
        changed=difference.changed,
        skipped_ids=skipped,
        redefined=redefined,
        by_rule=by_rule,
        definition=computation.definition,
        followed=follows,
        missed=missed,
    )
    if not initial:
        report.held_because = diff.must_hold(difference, job.guard)
        report.held = report.held_because is not None
    report.seconds = time.monotonic() - started
    following = None
    if follower is not None:
        following = follower.next(basis, read, full=not follows, users=difference.users)
    return Compared(report, difference, following.dumps() if following is not None else None, kept)


def _basis(follower: Follower | ChangedRows | None, row: Any, definition: str) -> Basis | None:
    """What the last sync left to start from; nothing after a change of the rule or the tables, or back in time."""
    if follower is None or row is None or row.first_sync_id is None or row.removed_at is not None:
        return None
    if not row.basis or row.definition != definition:
        return None
    basis = Basis.loads(row.basis)
    return basis if basis.fingerprint == follower.fingerprint and basis.as_of <= follower.as_of else None


def _by_rule(reader: Connection, computation: Computation, before: str | None) -> ByRule | None:
    """Whose change is the rule's doing: both rules asked at the same T; what is left is time's."""
    if before is None or computation.ids is None or computation.earlier is None:
        return None
    then = computation.earlier(before)
    if then is None:
        return None
    entered, some_entered = _only_in(reader, computation.ids, then)
    exited, some_exited = _only_in(reader, then, computation.ids)
    return ByRule(entered, exited, some_entered, some_exited)


def _only_in(reader: Connection, these: Any, those: Any) -> tuple[int, list[str]]:
    left, right = these.subquery(), those.subquery()
    only = sa.except_(sa.select(left.c.user_id), sa.select(right.c.user_id)).subquery()
    count = reader.execute(sa.select(sa.func.count()).select_from(only)).scalar_one()
    some = sa.select(only.c.user_id).order_by(only.c.user_id).limit(SAMPLE)
    return count, list(reader.execute(some).scalars()) if count else []


def tell_renamed(reports: Sequence[ComputationReport]) -> None:
    """A key that was changed is one computation removed and one added; the new one says which it was."""
    gone = [report for report in reports if report.removed]
    for report in reports:
        if report.initial:
            alike = [old for old in gone if old.definition == report.definition or old.name == report.name]
            report.formerly = alike[0].key if alike else None


def orphans(connection: Connection, config: Config, job: Job) -> list[Any]:
    """What state holds for this job and jobs.yaml no longer names."""
    named = {computed.key for other in config.jobs for computed in other.computed}
    rows = connection.execute(
        sa.select(computations)
        .where(computations.c.job == job.key, computations.c.size > 0)
        .order_by(computations.c.key)
    ).all()
    return [row for row in rows if row.key not in named]


def orphaned_jobs(connection: Connection, config: Config) -> dict[str, list[Any]]:
    """The same of jobs that jobs.yaml no longer names, by job: no run of theirs will ever tell of them."""
    named = {computed.key for job in config.jobs for computed in job.computed}
    jobs = {job.key for job in config.jobs}
    found: dict[str, list[Any]] = {}
    for row in connection.execute(sa.select(computations).where(computations.c.size > 0).order_by(computations.c.key)):
        if row.job not in jobs and row.key not in named:
            found.setdefault(row.job, []).append(row)
    return found


def removed(row: Any, job: Job | None) -> ComputationReport:
    told_false = job is not None and job.on_remove == "send false"
    return ComputationReport(
        row.key,
        row.name,
        row._mapping["class"],
        size=row.size,
        exited=row.size if told_false else 0,
        removed=True,
        definition=row.definition,
    )
