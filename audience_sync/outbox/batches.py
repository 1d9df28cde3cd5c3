"""Reading a batch of deliveries and writing down what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.outbox.windows import is_passed_over, routed
from audience_sync.state.tables import leftovers, outbox, passed_over, routes, workflows

PRUNE_ROWS = 50_000


class Delivery(NamedTuple):
    """One change for one workflow. `attempts` counts those made before."""

    seq: int
    computation_id: int
    sync_id: int
    user_id: str
    value: str
    attempts: int = 0
    first_attempt_at: datetime | None = None
    """None for one that comes fresh from the outbox; the others wait in `leftovers`."""


@dataclass(frozen=True)
class Failure:
    """A delivery that was attempted and not acknowledged."""

    delivery: Delivery
    error: str
    status_code: int | None
    next_attempt_at: datetime
    dead: bool = False


@dataclass(frozen=True)
class Batch:
    """Deliveries, leftovers first; fresh ones in the order of the outbox. `reaches` is where the cursor goes when all
    of them are done."""

    deliveries: list[Delivery]
    reaches: int


def next_batch(connection: Connection, workflow_id: int, limit: int, now: datetime) -> Batch:
    """Up to `limit` deliveries of the open window: leftovers that are due, then fresh ones."""
    cursor, end = connection.execute(
        sa.select(workflows.c.cursor, workflows.c.window_end).where(workflows.c.id == workflow_id)
    ).one()
    due = connection.execute(
        sa.select(
            leftovers.c.seq,
            leftovers.c.computation_id,
            leftovers.c.sync_id,
            leftovers.c.user_id,
            leftovers.c.value,
            leftovers.c.attempts,
            leftovers.c.first_attempt_at,
        )
        .join(
            routes,
            sa.and_(
                routes.c.workflow_id == leftovers.c.workflow_id,
                routes.c.computation_id == leftovers.c.computation_id,
                routes.c.ended.is_(False),
            ),
        )
        .where(
            leftovers.c.workflow_id == workflow_id,
            leftovers.c.dead_at.is_(None),
            leftovers.c.next_attempt_at <= now,
        )
        .order_by(leftovers.c.next_attempt_at, leftovers.c.seq)
        .limit(limit)
    ).all()
    found = [Delivery(*row) for row in due]
    room = limit - len(found)
    if room <= 0 or cursor >= end:
        return Batch(found, cursor)
    joined, meant = routed(workflow_id)
    fresh = connection.execute(
        sa.select(outbox.c.seq, outbox.c.computation_id, outbox.c.sync_id, outbox.c.user_id, outbox.c.value)
        .select_from(joined)
        .where(outbox.c.seq > cursor, outbox.c.seq <= end, meant, ~is_passed_over(workflow_id))
        .order_by(outbox.c.seq)
        .limit(room)
    ).all()
    found += [Delivery(*row) for row in fresh]
    return Batch(found, end if len(fresh) < room else fresh[-1].seq)


def checkpoint(
    connection: Connection,
    workflow_id: int,
    *,
    cursor: int | None,
    acknowledged: Sequence[Delivery],
    failed: Sequence[Failure],
    now: datetime,
) -> None:
    """Move the cursor (None: leave it) and write down what was left behind, in the caller's transaction."""
    retried = [d for d in acknowledged if d.first_attempt_at is not None]
    if retried:
        connection.execute(
            sa.delete(leftovers).where(
                leftovers.c.workflow_id == workflow_id,
                leftovers.c.computation_id == sa.bindparam("c"),
                leftovers.c.user_id == sa.bindparam("u"),
                leftovers.c.seq == sa.bindparam("s"),
            ),
            [{"c": d.computation_id, "u": d.user_id, "s": d.seq} for d in retried],
        )
    again = [f for f in failed if f.delivery.first_attempt_at is not None]
    if again:
        connection.execute(
            sa.update(leftovers)
            .where(
                leftovers.c.workflow_id == workflow_id,
                leftovers.c.computation_id == sa.bindparam("c"),
                leftovers.c.user_id == sa.bindparam("u"),
                leftovers.c.seq == sa.bindparam("s"),
            )
            .values(
                attempts=sa.bindparam("n"),
                next_attempt_at=sa.bindparam("at"),
                status_code=sa.bindparam("code"),
                error=sa.bindparam("said"),
                dead_at=sa.bindparam("dead"),
            ),
            [
                {
                    "c": f.delivery.computation_id,
                    "u": f.delivery.user_id,
                    "s": f.delivery.seq,
                    "n": f.delivery.attempts + 1,
                    "at": f.next_attempt_at,
                    "code": f.status_code,
                    "said": f.error,
                    "dead": now if f.dead else None,
                }
                for f in again
            ],
        )
    fresh = [f for f in failed if f.delivery.first_attempt_at is None]
    if fresh:
        connection.execute(
            sa.insert(leftovers),
            [
                {
                    "workflow_id": workflow_id,
                    "computation_id": f.delivery.computation_id,
                    "user_id": f.delivery.user_id,
                    "seq": f.delivery.seq,
                    "sync_id": f.delivery.sync_id,
                    "value": f.delivery.value,
                    "attempts": 1,
                    "first_attempt_at": now,
                    "next_attempt_at": f.next_attempt_at,
                    "status_code": f.status_code,
                    "error": f.error,
                    "dead_at": now if f.dead else None,
                }
                for f in fresh
            ],
        )
    changed: dict[str, object] = {} if cursor is None else {"cursor": cursor}
    if acknowledged:
        changed["last_ack_at"] = now
        if not failed:
            changed |= {"last_error": None, "last_error_at": None}
    if failed:
        changed |= {"last_error_at": now, "last_error": failed[-1].error}
    if changed:
        connection.execute(sa.update(workflows).where(workflows.c.id == workflow_id).values(**changed))


def prune(connection: Connection) -> int:
    """Delete a stretch of rows that every workflow has passed; returns how many. Call until it returns 0."""
    low = connection.execute(
        sa.select(sa.func.min(workflows.c.cursor)).where(workflows.c.removed_at.is_(None))
    ).scalar()
    first = connection.execute(sa.select(sa.func.min(outbox.c.seq))).scalar()
    if low is None or first is None or first > low:
        return 0
    upto = min(low, first + PRUNE_ROWS)
    connection.execute(sa.delete(passed_over).where(passed_over.c.seq <= upto))
    return connection.execute(sa.delete(outbox).where(outbox.c.seq <= upto)).rowcount


def next_due(connection: Connection, workflow_id: int) -> datetime | None:
    """When the next leftover may be tried again; None when none waits."""
    return connection.execute(
        sa.select(sa.func.min(leftovers.c.next_attempt_at)).where(
            leftovers.c.workflow_id == workflow_id, leftovers.c.dead_at.is_(None)
        )
    ).scalar()
