"""The workflows as state knows them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.outbox.record import head, take_turn
from audience_sync.outbox.windows import is_passed_over, routed
from audience_sync.state.tables import leftovers, outbox, passed_over, routes, workflows


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
            connection.execute(sa.insert(workflows).values(name=name, cursor=end, window_end=end))
        elif known[name].removed_at is not None:
            start = max(end, known[name].window_end)
            connection.execute(
                sa.update(workflows)
                .where(workflows.c.name == name)
                .values(removed_at=None, cursor=start, window_end=start, last_error=None, last_error_at=None)
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
    cursor = sa.select(workflows.c.cursor).where(workflows.c.id == workflow_id).scalar_subquery()
    joined, meant = routed(workflow_id)
    counts: dict[int, tuple[int, int]] = {}
    for computation_id, count in connection.execute(
        sa.select(outbox.c.computation_id, sa.func.count())
        .select_from(joined)
        .where(outbox.c.seq > cursor, meant, ~is_passed_over(workflow_id))
        .group_by(outbox.c.computation_id)
    ):
        counts[computation_id] = (count, 0)
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
