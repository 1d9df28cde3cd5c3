"""What is over and done with is kept for a while, so that people can look it up, and then deleted.

Rows of the outbox have no time of their own, so how long the outbox was at which instant is marked every so often. The
id of a user who was forgotten is kept only until every workflow has acknowledged the delete.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.outbox.record import head
from audience_sync.outbox.windows import DELETES
from audience_sync.state.tables import (
    attempts,
    backfills,
    checkpoints,
    computations,
    handed_over,
    lanes,
    leftovers,
    marks,
    outbox,
    passed_over,
    results,
    syncs,
    workflows,
)

ROWS = 50_000
MARK_EVERY = timedelta(minutes=15)


def prune(connection: Connection, now: datetime, *, deliveries: datetime, history: datetime) -> int:
    """Delete a stretch of what is older than these instants; returns how many rows. Call until it returns 0."""
    passed = dict(
        connection.execute(
            sa.select(lanes.c.lane, sa.func.min(lanes.c.cursor))
            .join(workflows, workflows.c.id == lanes.c.workflow_id)
            .where(workflows.c.removed_at.is_(None))
            .group_by(lanes.c.lane)
        ).all()
    )
    gone = _prune_deletes(connection, passed)
    kept_from = _mark(connection, now, deliveries)
    for lane, low in passed.items():
        upto = low if kept_from is None else min(low, kept_from)
        first = connection.execute(sa.select(sa.func.min(outbox.c.seq)).where(outbox.c.lane == lane)).scalar()
        if first is not None and first <= upto:
            here = sa.and_(outbox.c.lane == lane, outbox.c.seq <= min(upto, first + ROWS))
            gone += _delete_outbox(connection, here)
    if not gone:
        _prune_attempts(connection, deliveries)
        _prune_history(connection, history)
    return gone


def _mark(connection: Connection, now: datetime, before: datetime) -> int | None:
    """Note where the outbox ends; returns where it ended at an instant, or None for now."""
    if before >= now:
        return None
    last = connection.execute(sa.select(sa.func.max(marks.c.at))).scalar()
    if last is None or now - last >= MARK_EVERY:
        connection.execute(sa.insert(marks).values(at=now, seq=head(connection)))
    found = connection.execute(
        sa.select(marks.c.at, marks.c.seq).where(marks.c.at <= before).order_by(marks.c.at.desc()).limit(1)
    ).first()
    if found is None:
        return 0
    connection.execute(sa.delete(marks).where(marks.c.at < found.at))
    return int(found.seq)


def _delete_outbox(connection: Connection, here: sa.ColumnElement[bool]) -> int:
    connection.execute(sa.delete(passed_over).where(passed_over.c.seq.in_(sa.select(outbox.c.seq).where(here))))
    return connection.execute(sa.delete(outbox).where(here)).rowcount


def _prune_deletes(connection: Connection, passed: dict[int, int]) -> int:
    """Deletes that all have acknowledged, with what is known of their attempts."""
    class_ids = sa.select(computations.c.id).where(computations.c["class"] == DELETES)
    waiting = sa.exists().where(leftovers.c.seq == outbox.c.seq, leftovers.c.computation_id.in_(class_ids))
    gone = 0
    for id_ in connection.execute(class_ids).scalars().all():
        found = connection.execute(
            sa.select(outbox.c.seq, outbox.c.lane).where(outbox.c.computation_id == id_, ~waiting).limit(ROWS)
        ).all()
        done = [seq for seq, lane in found if seq <= passed.get(lane, 0)]
        for at in range(0, len(done), 500):
            chunk = done[at : at + 500]
            connection.execute(sa.delete(attempts).where(attempts.c.computation_id == id_, attempts.c.seq.in_(chunk)))
            gone += _delete_outbox(connection, outbox.c.seq.in_(chunk))
    return gone


def _prune_attempts(connection: Connection, before: datetime) -> None:
    waits = sa.exists().where(leftovers.c.workflow_id == attempts.c.workflow_id, leftovers.c.seq == attempts.c.seq)
    connection.execute(sa.delete(attempts).where(attempts.c.at < before, ~waits))
    connection.execute(sa.delete(checkpoints).where(checkpoints.c.at < before))


def _prune_history(connection: Connection, before: datetime) -> None:
    """Past syncs, but for each job's last, and those whose token a delivery may still need."""
    old: list[Any] = list(
        connection.execute(
            sa.select(syncs.c.id)
            .where(
                syncs.c.started_at < before,
                syncs.c.id.not_in(sa.select(sa.func.max(syncs.c.id)).group_by(syncs.c.job)),
                ~sa.exists().where(leftovers.c.sync_id == syncs.c.id),
                ~sa.exists().where(backfills.c.sync_id == syncs.c.id, backfills.c.finished_at.is_(None)),
            )
            .order_by(syncs.c.id)
            .limit(ROWS // 100)
        ).scalars()
    )
    if not old:
        return
    needed = set(connection.execute(sa.select(outbox.c.sync_id).where(outbox.c.sync_id.in_(old)).distinct()).scalars())
    gone = [id_ for id_ in old if id_ not in needed]
    for table, column in ((results, results.c.sync_id), (handed_over, handed_over.c.sync_id), (syncs, syncs.c.id)):
        connection.execute(sa.delete(table).where(column.in_(gone)))
