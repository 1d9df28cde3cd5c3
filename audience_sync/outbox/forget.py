"""A user leaves state and is deleted at every workflow.

All that state holds of the user goes in the transaction that writes the delete into the outbox; of the id, only its
salted hash stays once every workflow has acknowledged. What a sender has read before and has in flight at that moment
cannot be called back, but nothing of it outlives the delete: a window is opened when nothing is in flight, so the
delete comes after, and `windows` drops what failed before it and keeps what follows it for the next window.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.outbox.lanes import lane_of
from audience_sync.outbox.record import NEVER_EQUAL, head, take_turn
from audience_sync.outbox.windows import DELETES
from audience_sync.state.tables import (
    attempts,
    backfills,
    computations,
    former,
    leftovers,
    outbox,
    passed_over,
    routes,
    synced,
)

KEY, JOB = "forget:user", "forget"


def computation(connection: Connection, workflow_ids: Sequence[int]) -> int:
    """The computation that deletes belong to, routed to all of these workflows; in the caller's transaction."""
    take_turn(connection)
    id_ = connection.execute(sa.select(computations.c.id).where(computations.c.key == KEY)).scalar()
    if id_ is None:
        id_ = connection.execute(
            sa.insert(computations)
            .values({"key": KEY, "name": "Forget", "class": DELETES, "job": JOB, "definition": ""})
            .returning(computations.c.id)
        ).scalar_one()
    ended: dict[int, bool] = dict(
        connection.execute(sa.select(routes.c.workflow_id, routes.c.ended).where(routes.c.computation_id == id_)).all()
    )
    since = head(connection)
    for workflow in workflow_ids:
        if workflow not in ended:
            row = {"workflow_id": workflow, "computation_id": id_, "since_seq": since, "ended": False}
            connection.execute(sa.insert(routes).values(row))
        elif ended[workflow]:
            this = sa.and_(routes.c.workflow_id == workflow, routes.c.computation_id == id_)
            connection.execute(sa.update(routes).where(this).values(since_seq=since, ended=False))
    return int(id_)


def erase(connection: Connection, user_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Delete all that state holds of these users; returns what there was of each, in the caller's transaction."""
    found: dict[str, dict[str, Any]] = {user_id: {"in": []} for user_id in user_ids}
    every = sa.select(computations.c.id)  # named, so that the primary key serves
    theirs = sa.and_(synced.c.computation_id.in_(every), synced.c.user_id.in_(user_ids))
    for user_id, key in connection.execute(
        sa.select(synced.c.user_id, computations.c.key)
        .join(computations, computations.c.id == synced.c.computation_id)
        .where(theirs)
        .order_by(computations.c.key)
    ):
        found[user_id]["in"].append(key)
    counted = (
        ("memberships", synced, theirs),
        ("former_memberships", former, former.c.computation_id.in_(every)),
        ("dead_letters", leftovers, leftovers.c.dead_at.is_not(None)),
        ("changes", outbox, sa.true()),
        ("attempts", attempts, sa.true()),
    )
    for name, table, condition in counted:
        counts: dict[str, int] = dict(
            connection.execute(
                sa.select(table.c.user_id, sa.func.count())
                .where(condition, table.c.user_id.in_(user_ids))
                .group_by(table.c.user_id)
            ).all()
        )
        for user_id in user_ids:
            found[user_id][name] = counts.get(user_id, 0)
    of_users = sa.select(outbox.c.seq).where(outbox.c.user_id.in_(user_ids))
    connection.execute(sa.delete(passed_over).where(passed_over.c.seq.in_(of_users)))
    connection.execute(sa.delete(former).where(former.c.computation_id.in_(every), former.c.user_id.in_(user_ids)))
    gone = sa.select(sa.func.count()).where(
        synced.c.computation_id == computations.c.id, synced.c.user_id.in_(user_ids)
    )
    smaller = {"size": computations.c.size - gone.correlate(computations).scalar_subquery()}
    connection.execute(sa.update(computations).values(smaller))
    connection.execute(sa.delete(synced).where(theirs))
    for table in (leftovers, outbox, attempts):
        connection.execute(sa.delete(table).where(table.c.user_id.in_(user_ids)))
    _step_back(connection, user_ids)
    return found


def _step_back(connection: Connection, user_ids: Sequence[str]) -> None:
    """A backfill that has come just so far goes on after whoever stands before."""
    before = (
        sa.select(sa.func.max(synced.c.user_id))
        .where(synced.c.computation_id == backfills.c.computation_id, synced.c.user_id < backfills.c.after_user)
        .correlate(backfills)
        .scalar_subquery()
    )
    in_warehouse = backfills.c.computation_id.in_(
        sa.select(computations.c.id).where(computations.c.snapshot.is_not(None))
    )
    shorter = sa.func.substr(backfills.c.after_user, 1, sa.func.length(backfills.c.after_user) - 1)
    # Of one that is at those who left, the place is in another order of the same ids: it may tell some twice. So may
    # one whose members a warehouse keeps: those whose ids differ in the last letter alone.
    place = sa.case(
        (backfills.c.finished_at.is_not(None), sa.null()), (in_warehouse, sa.func.nullif(shorter, "")), else_=before
    )
    connection.execute(sa.update(backfills).where(backfills.c.after_user.in_(user_ids)).values(after_user=place))


def write_delete(connection: Connection, computation_id: int, sync_id: int, user_id: str) -> tuple[int, int]:
    """The delete, for every workflow; returns its sequence number and lane."""
    row = connection.execute(
        sa.insert(outbox)
        .values(
            lane=lane_of(sa.literal(user_id, outbox.c.user_id.type), connection.dialect.name),
            computation_id=computation_id,
            sync_id=sync_id,
            user_id=user_id,
            value="null",
            previous=NEVER_EQUAL,
        )
        .returning(outbox.c.seq, outbox.c.lane)
    ).one()
    return row.seq, row.lane
