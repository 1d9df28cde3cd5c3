"""The workflows as state knows them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.outbox.lanes import COUNT
from audience_sync.outbox.record import head, take_turn
from audience_sync.outbox.windows import is_passed_over, routed
from audience_sync.state.tables import lanes, leftovers, outbox, passed_over, routes, workflows


def register_workflows(connection: Connection, names: Iterable[str], now: datetime) -> dict[str, int]:
    """Make state's workflows those of jobs.yaml; returns their ids by name.

    A workflow is known by its name, so a changed URL keeps the cursor. One that was taken out keeps nothing
    pending; should it come back, it is told of all members, and of those who were, anew.
    """
    take_turn(connection)
    wanted = list(names)
    known = {row.name: row for row in connection.execute(sa.select(workflows))}
    end = head(connection)
    for name in wanted:
        if name not in known:
            id_ = connection.execute(sa.insert(workflows).values(name=name).returning(workflows.c.id)).scalar_one()
            count = COUNT[connection.dialect.name]
            connection.execute(
                sa.insert(lanes),
                [{"workflow_id": id_, "lane": lane, "cursor": end, "window_end": end} for lane in range(count)],
            )
        elif known[name].removed_at is not None:
            id_ = known[name].id
            connection.execute(
                sa.update(workflows)
                .where(workflows.c.id == id_)
                .values(removed_at=None, paused_at=None, breaker_opened_at=None, last_error=None, last_error_at=None)
            )
            start = sa.case((lanes.c.window_end > end, lanes.c.window_end), else_=end)
            connection.execute(
                sa.update(lanes).where(lanes.c.workflow_id == id_).values(cursor=start, window_end=start)
            )
    for name, row in known.items():
        if name not in wanted and row.removed_at is None:
            for table in (leftovers, passed_over):
                connection.execute(sa.delete(table).where(table.c.workflow_id == row.id))
            connection.execute(sa.update(routes).where(routes.c.workflow_id == row.id).values(ended=True))
            connection.execute(sa.update(workflows).where(workflows.c.id == row.id).values(removed_at=now))
    return dict(
        connection.execute(sa.select(workflows.c.name, workflows.c.id).where(workflows.c.removed_at.is_(None))).all()
    )


def pending(connection: Connection, workflow_id: int) -> dict[int, tuple[int, int]]:
    """For each computation with any: deliveries still to be acknowledged, and dead letters."""
    joined, meant = routed(workflow_id)
    of_lane = sa.and_(lanes.c.workflow_id == workflow_id, lanes.c.lane == outbox.c.lane)
    counts: dict[int, tuple[int, int]] = {}
    for computation_id, count in connection.execute(
        sa.select(outbox.c.computation_id, sa.func.count())
        .select_from(joined.join(lanes, of_lane))
        .where(outbox.c.seq > lanes.c.cursor, meant, ~is_passed_over(workflow_id))
        .group_by(outbox.c.computation_id)
    ):
        counts[computation_id] = (count, 0)
    for computation_id, count in connection.execute(
        sa.select(outbox.c.computation_id, sa.func.count())
        .join(passed_over, passed_over.c.seq == outbox.c.seq)
        .join(lanes, of_lane)
        .where(passed_over.c.workflow_id == workflow_id, passed_over.c.merged_into > lanes.c.cursor)
        .group_by(outbox.c.computation_id)
    ):
        counts[computation_id] = (counts.get(computation_id, (0, 0))[0] + count, 0)
    dead = sa.func.sum(sa.case((leftovers.c.dead_at.is_not(None), 1), else_=0))
    for computation_id, count, given_up in connection.execute(
        sa.select(leftovers.c.computation_id, sa.func.count(), dead)
        .where(leftovers.c.workflow_id == workflow_id)
        .group_by(leftovers.c.computation_id)
    ):
        waiting = counts.get(computation_id, (0, 0))[0]
        counts[computation_id] = (waiting + count - int(given_up), int(given_up))
    return counts


def message_prefix(state_id: str, sync_token: str, workflow: str) -> str:
    """The part of a messageId that one sync's deliveries to one workflow share; the sequence number follows it."""
    parts: Sequence[str] = (state_id, sync_token, workflow)
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:24]
