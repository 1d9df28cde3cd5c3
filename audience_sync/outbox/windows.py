"""Windows: the stretch of outbox that a lane of a workflow works through, with what need not be sent taken out of it.

A window is opened when nothing of the lane is in flight: at the start of each run, and when the last one is
worked through. For each (computation, user) with undelivered changes up to the outbox's head:

1. all but the newest are passed over: the receiver must end at the newest value, and would be told an older one
   for nothing;
2. where a leftover waits, it takes over the newest value and all rows are passed over: one delivery at a time for a
   (workflow, computation, user), or a retry could overtake;
3. where the changes end at the value the workflow already has (out and in again while it was away), all are passed
   over: it must not be told what it was told last. This holds only for rows beyond the previous window's end:
   earlier ones may have been attempted, or stand for others passed over before them, so what the workflow has
   is not certain.
4. Of a coalescing job's changes of one user in one sync, all but the first are merged into it: one call tells them all.

Rows passed over are listed in `passed_over`, so that a crash in the middle of a window changes none of these decisions.
What a user is told before being forgotten is dropped when the window that holds the delete opens, and what the same id
is told after it (`unforget`) waits for the next window: so the delete stands alone between them.
Messages of the relay are *chained* instead: each is its own news, so none is superseded, and they go out one by one.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement
from sqlalchemy.engine import Connection

from audience_sync.outbox.record import head
from audience_sync.state.tables import attempts, computations, lanes, leftovers, outbox, passed_over, routes

CHAINED = "message"
"""The class of computations whose rows are chained."""
DELETES = "delete"
"""The class of the computation whose rows delete a forgotten user."""
WorkflowId = int | ColumnElement[int]
"""In statements that are built once, a parameter."""


def routed(workflow_id: WorkflowId) -> tuple[sa.FromClause, ColumnElement[bool]]:
    """The outbox joined with the workflow's routes, and the condition that a row is for it."""
    joined = outbox.join(
        routes,
        sa.and_(
            routes.c.computation_id == outbox.c.computation_id,
            routes.c.workflow_id == workflow_id,
            routes.c.ended.is_(False),
        ),
    )
    meant = sa.or_(
        outbox.c.workflow_id == workflow_id,
        sa.and_(outbox.c.workflow_id.is_(None), outbox.c.seq > routes.c.since_seq),
    )
    return joined, meant


def is_passed_over(workflow_id: WorkflowId) -> ColumnElement[bool]:
    return (
        sa.exists().where(passed_over.c.workflow_id == workflow_id, passed_over.c.seq == outbox.c.seq).correlate(outbox)
    )


def open_window(connection: Connection, workflow_id: int, lane: int, now: datetime) -> tuple[int, int, dict[int, int]]:
    """Open the lane's next window up to the outbox's head, in the caller's transaction.

    Returns the cursor, the window's end, and how many rows of each computation were superseded.
    """
    of_lane = sa.and_(lanes.c.workflow_id == workflow_id, lanes.c.lane == lane)
    cursor, last_end = connection.execute(sa.select(lanes.c.cursor, lanes.c.window_end).where(of_lane)).one()
    end = max(head(connection), last_end)
    if end == last_end:
        return cursor, end, {}
    end = _up_to_deletes(connection, workflow_id, lane, cursor, last_end, end)
    if end == last_end:
        return cursor, end, {}
    superseded: dict[int, int] = {}
    if _may_repeat(connection, workflow_id, lane, cursor):
        superseded = _take_out(connection, workflow_id, lane, cursor, last_end, end, now)
    if coalescing(connection):
        _merge(connection, workflow_id, lane, last_end, end)
    connection.execute(sa.update(lanes).where(of_lane).values(window_end=end))
    return cursor, end, superseded


def _up_to_deletes(connection: Connection, workflow_id: int, lane: int, cursor: int, last_end: int, end: int) -> int:
    """Where the window ends for deletes' sake; drops what their users were told before."""
    class_ids = _ids(computations.c["class"] == DELETES)
    end = max(last_end, _before_waiting_deletes(connection, workflow_id, lane, cursor, end))
    deletes = outbox.alias("deletes")
    is_delete = sa.and_(
        deletes.c.computation_id.in_(class_ids),
        deletes.c.lane == lane,
        deletes.c.seq > cursor,
        deletes.c.seq <= end,
    )
    if connection.execute(sa.select(deletes.c.seq).where(is_delete).limit(1)).first() is None:
        return end
    later = sa.and_(outbox.c.lane == lane, outbox.c.user_id == deletes.c.user_id, outbox.c.seq > deletes.c.seq)
    followed = sa.select(sa.func.min(deletes.c.seq)).where(is_delete, sa.exists().where(later))
    first = connection.execute(followed).scalar()
    for table in (leftovers, attempts):
        before = sa.exists().where(is_delete, deletes.c.user_id == table.c.user_id, deletes.c.seq > table.c.seq)
        connection.execute(sa.delete(table).where(table.c.workflow_id == workflow_id, before.correlate(table)))
    return end if first is None else max(last_end, int(first))


def _before_waiting_deletes(connection: Connection, workflow_id: int, lane: int, cursor: int, end: int) -> int:
    """A delete that failed and is tried again holds back what its user is told after it."""
    class_ids = _ids(computations.c["class"] == DELETES)
    waiting = sa.and_(
        leftovers.c.workflow_id == workflow_id,
        leftovers.c.lane == lane,
        leftovers.c.dead_at.is_(None),
        leftovers.c.computation_id.in_(class_ids),
    )
    if connection.execute(sa.select(leftovers.c.seq).where(waiting).limit(1)).first() is None:
        return end
    held_back = (
        sa.select(sa.func.min(outbox.c.seq))
        .join(leftovers, leftovers.c.user_id == outbox.c.user_id)
        .where(
            waiting,
            outbox.c.lane == lane,
            outbox.c.seq > cursor,
            outbox.c.seq > leftovers.c.seq,
            outbox.c.seq <= end,
            outbox.c.computation_id.not_in(class_ids),
        )
    )
    first = connection.execute(held_back).scalar()
    return end if first is None else int(first) - 1


def coalescing(connection: Connection) -> bool:
    query = sa.select(computations.c.id).where(computations.c.coalesced).limit(1)
    return connection.execute(query).first() is not None


def _ids(condition: ColumnElement[bool]) -> sa.Select[Any]:
    return sa.select(computations.c.id).where(condition)


def _may_repeat(connection: Connection, workflow_id: int, lane: int, cursor: int) -> bool:
    """Whether some (computation, user) can occur twice: not when each computation's rows are of one sync."""
    waiting = sa.select(leftovers.c.seq).where(leftovers.c.workflow_id == workflow_id, leftovers.c.lane == lane)
    if connection.execute(waiting.limit(1)).first():
        return True
    joined, meant = routed(workflow_id)
    per_computation = (
        sa.select(outbox.c.computation_id)
        .select_from(joined)
        .where(outbox.c.lane == lane, outbox.c.seq > cursor, meant)
        .group_by(outbox.c.computation_id)
        .having(sa.func.min(outbox.c.sync_id) != sa.func.max(outbox.c.sync_id))
    )
    return connection.execute(per_computation.limit(1)).first() is not None


def _take_out(
    connection: Connection, workflow_id: int, lane: int, cursor: int, last_end: int, end: int, now: datetime
) -> dict[int, int]:
    joined, meant = routed(workflow_id)
    here = sa.and_(
        outbox.c.lane == lane,
        outbox.c.seq > cursor,
        outbox.c.seq <= end,
        meant,
        outbox.c.computation_id.not_in(_ids(computations.c["class"] == CHAINED)),
    )
    same: Any = {"partition_by": (outbox.c.computation_id, outbox.c.user_id)}
    other = sa.case((outbox.c.value == "true", "false"), else_="true")
    told_before = sa.func.coalesce(outbox.c.previous, other)
    chain = (
        sa.select(
            outbox.c.seq,
            outbox.c.computation_id,
            outbox.c.user_id,
            outbox.c.sync_id,
            outbox.c.value,
            sa.func.min(outbox.c.seq).over(**same).label("oldest"),
            sa.func.max(outbox.c.seq).over(**same).label("newest"),
            sa.func.first_value(told_before).over(order_by=outbox.c.seq, **same).label("before"),
            sa.func.first_value(outbox.c.value).over(order_by=outbox.c.seq.desc(), **same).label("after"),
        )
        .select_from(joined)
        .where(here, ~is_passed_over(workflow_id))
        .subquery("chain")
    )
    waiting = (
        sa.exists()
        .where(
            leftovers.c.workflow_id == workflow_id,
            leftovers.c.chained.is_(False),
            leftovers.c.computation_id == chain.c.computation_id,
            leftovers.c.user_id == chain.c.user_id,
        )
        .correlate(chain)
    )
    cancelled = sa.and_(chain.c.oldest > last_end, chain.c.before == chain.c.after)
    unneeded = sa.or_(chain.c.seq != chain.c.newest, cancelled, waiting)
    superseded: dict[int, int] = dict(
        connection.execute(
            sa.select(chain.c.computation_id, sa.func.count()).where(unneeded).group_by(chain.c.computation_id)
        ).all()
    )
    if not superseded:
        return {}
    connection.execute(
        sa.insert(passed_over).from_select(
            ["workflow_id", "seq"],
            sa.select(sa.literal(workflow_id, sa.BigInteger), chain.c.seq).where(unneeded),
        )
    )
    # The rows are passed over by now, so the leftovers' newest values are looked up among all rows of the window.
    newest = (
        sa.select(outbox.c.computation_id, outbox.c.user_id, sa.func.max(outbox.c.seq).label("seq"))
        .select_from(joined)
        .where(here)
        .group_by(outbox.c.computation_id, outbox.c.user_id)
        .subquery("newest")
    )
    takes_over = (
        sa.select(outbox.c.seq, outbox.c.sync_id, outbox.c.value, outbox.c.computation_id, outbox.c.user_id)
        .select_from(outbox.join(newest, newest.c.seq == outbox.c.seq))
        .subquery("takes_over")
    )
    connection.execute(
        sa.update(leftovers)
        .where(
            leftovers.c.workflow_id == workflow_id,
            leftovers.c.chained.is_(False),
            leftovers.c.computation_id == takes_over.c.computation_id,
            leftovers.c.user_id == takes_over.c.user_id,
            leftovers.c.seq < takes_over.c.seq,
        )
        .values(
            seq=takes_over.c.seq,
            sync_id=takes_over.c.sync_id,
            value=takes_over.c.value,
            attempts=0,
            first_attempt_at=now,
            merged_into=None,
            dead_at=None,
        )
    )
    return superseded


def _merge(connection: Connection, workflow_id: int, lane: int, last_end: int, end: int) -> None:
    """Only rows beyond the last window: an earlier one may have been told alone, and its messageId with it; were more
    merged into it now, a receiver that drops repeats would drop the rest."""
    joined, meant = routed(workflow_id)
    told_together = (
        sa.select(
            outbox.c.seq,
            sa.func.min(outbox.c.seq).over(partition_by=(outbox.c.sync_id, outbox.c.user_id)).label("first"),
        )
        .select_from(joined)
        .where(
            outbox.c.lane == lane,
            outbox.c.seq > last_end,
            outbox.c.seq <= end,
            meant,
            ~is_passed_over(workflow_id),
            outbox.c.computation_id.in_(_ids(computations.c.coalesced)),
        )
        .subquery("told_together")
    )
    connection.execute(
        sa.insert(passed_over).from_select(
            ["workflow_id", "seq", "merged_into"],
            sa.select(sa.literal(workflow_id, sa.BigInteger), told_together.c.seq, told_together.c.first).where(
                told_together.c.seq != told_together.c.first
            ),
        )
    )
