"""Reading a batch of deliveries and writing down what became of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.outbox.windows import CHAINED, is_passed_over, routed
from audience_sync.state.tables import (
    attempts,
    checkpoints,
    computations,
    lanes,
    leftovers,
    outbox,
    passed_over,
    routes,
    workflows,
)


class Delivery(NamedTuple):
    """One change for one workflow. `attempts` counts those made before; `waited`: it comes from `leftovers`."""

    seq: int
    computation_id: int
    sync_id: int
    user_id: str
    value: str
    attempts: int = 0
    first_attempt_at: datetime | None = None
    waited: bool = False
    merged: tuple[Delivery, ...] = ()
    """Other changes of the user that the same call tells (`coalesce`)."""


@dataclass(frozen=True)
class Failure:
    """A delivery that was not acknowledged. `attempts` counts all that told against it, this one included."""

    delivery: Delivery
    attempts: int
    error: str
    status_code: int | None
    next_attempt_at: datetime
    dead: bool = False
    chained: bool = False
    merged_into: int | None = None


@dataclass(frozen=True)
class Attempt:
    """One HTTP request that failed, for people to look at."""

    delivery: Delivery
    at: datetime
    seconds: float
    status_code: int | None
    error: str
    answer: str | None


@dataclass(frozen=True)
class Batch:
    """Deliveries of one lane: leftovers first, then fresh ones in the order of the outbox. `reaches` is where the
    cursor goes when all of them are done; `held_back` are users whose earlier message still waits."""

    lane: int
    deliveries: list[Delivery]
    reaches: int
    held_back: frozenset[str] = frozenset()


def next_batch(
    connection: Connection,
    workflow_id: int,
    lane: int,
    *,
    after: int,
    end: int,
    limit: int,
    now: datetime,
    merging: bool = False,
) -> Batch:
    """Up to `limit` deliveries: leftovers that are due, then fresh ones with `after` < seq ≤ `end`."""
    found = _due(connection, workflow_id, lane, limit, now)
    room = limit - len(found)
    if room <= 0 or after >= end:
        return Batch(lane, found, after)
    joined, meant = routed(workflow_id)
    rows = connection.execute(
        sa.select(outbox.c.seq, outbox.c.computation_id, outbox.c.sync_id, outbox.c.user_id, outbox.c.value)
        .select_from(joined)
        .where(outbox.c.lane == lane, outbox.c.seq > after, outbox.c.seq <= end, meant, ~is_passed_over(workflow_id))
        .order_by(outbox.c.seq)
        .limit(room)
    ).all()
    fresh = [Delivery(*row) for row in rows]
    reaches = end if len(fresh) < room else fresh[-1].seq
    if merging and fresh:
        into = _merged(connection, workflow_id, after, reaches)
        fresh = [one._replace(merged=tuple(into[one.seq])) if one.seq in into else one for one in fresh]
    held_back = sa.select(leftovers.c.user_id).where(
        leftovers.c.workflow_id == workflow_id,
        leftovers.c.lane == lane,
        leftovers.c.chained,
        leftovers.c.dead_at.is_(None),
    )
    waiting = frozenset(connection.execute(held_back.distinct()).scalars())
    return Batch(lane, found + fresh, reaches, waiting)


def _due(connection: Connection, workflow_id: int, lane: int, limit: int, now: datetime) -> list[Delivery]:
    before = leftovers.alias("before")
    behind_another = (
        sa.exists()
        .where(
            leftovers.c.chained,
            before.c.workflow_id == workflow_id,
            before.c.user_id == leftovers.c.user_id,
            before.c.chained,
            before.c.dead_at.is_(None),
            before.c.seq < leftovers.c.seq,
        )
        .correlate(leftovers)
    )
    first = leftovers.alias("first")
    told_with_another = (
        sa.exists()
        .where(first.c.workflow_id == workflow_id, first.c.seq == leftovers.c.merged_into, first.c.dead_at.is_(None))
        .correlate(leftovers)
    )
    query = (
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
            leftovers.c.lane == lane,
            leftovers.c.dead_at.is_(None),
        )
    )
    due = connection.execute(
        query.where(leftovers.c.next_attempt_at <= now, ~behind_another, ~told_with_another)
        .order_by(leftovers.c.next_attempt_at, leftovers.c.seq)
        .limit(limit)
    ).all()
    found = [Delivery(*row)._replace(waited=True) for row in due]
    if found:
        into: dict[int, list[Delivery]] = defaultdict(list)
        parts = query.add_columns(leftovers.c.merged_into).where(
            leftovers.c.merged_into.in_([one.seq for one in found])
        )
        for row in connection.execute(parts):
            into[row.merged_into].append(Delivery(*row[:7])._replace(waited=True))
        found = [one._replace(merged=tuple(into[one.seq])) if one.seq in into else one for one in found]
    return found


def _merged(connection: Connection, workflow_id: int, after: int, upto: int) -> dict[int, list[Delivery]]:
    """The changes that are told in the call of another in this stretch, by that other's sequence number."""
    into: dict[int, list[Delivery]] = defaultdict(list)
    for row in connection.execute(
        sa.select(
            outbox.c.seq,
            outbox.c.computation_id,
            outbox.c.sync_id,
            outbox.c.user_id,
            outbox.c.value,
            passed_over.c.merged_into,
        )
        .join(passed_over, passed_over.c.seq == outbox.c.seq)
        .where(
            passed_over.c.workflow_id == workflow_id,
            passed_over.c.merged_into > after,
            passed_over.c.merged_into <= upto,
        )
        .order_by(outbox.c.seq)
    ):
        into[row.merged_into].append(Delivery(*row[:5]))
    return into


@dataclass(frozen=True)
class Done:
    """What a checkpoint writes down. `cursor` None leaves the lane's cursor where it is."""

    lane: int
    from_seq: int
    cursor: int | None
    acknowledged: int
    seconds: float
    retried: Sequence[Delivery] = ()
    """Acknowledged leftovers."""
    failed: Sequence[Failure] = ()
    attempts: Sequence[Attempt] = ()


def checkpoint(connection: Connection, workflow_id: int, sender: str, done: Done, now: datetime) -> bool:
    """Move the cursor and write down what was left behind, in the caller's transaction.

    False when the lane went to another sender meanwhile: then nothing is written.
    """
    moved = connection.execute(
        sa.update(lanes)
        .where(lanes.c.workflow_id == workflow_id, lanes.c.lane == done.lane, lanes.c.leased_by == sender)
        .values(cursor=lanes.c.cursor if done.cursor is None else done.cursor)
    )
    if moved.rowcount != 1:
        return False
    this = sa.and_(leftovers.c.workflow_id == workflow_id, leftovers.c.seq == sa.bindparam("s"))
    if done.retried:
        connection.execute(sa.delete(leftovers).where(this), [{"s": d.seq} for d in done.retried])
    again = [f for f in done.failed if f.delivery.waited]
    if again:
        connection.execute(
            sa.update(leftovers)
            .where(this)
            .values(
                attempts=sa.bindparam("n"),
                next_attempt_at=sa.bindparam("at"),
                status_code=sa.bindparam("code"),
                error=sa.bindparam("said"),
                dead_at=sa.bindparam("dead"),
            ),
            [
                {
                    "s": f.delivery.seq,
                    "n": f.attempts,
                    "at": f.next_attempt_at,
                    "code": f.status_code,
                    "said": f.error,
                    "dead": now if f.dead else None,
                }
                for f in again
            ],
        )
    fresh = [f for f in done.failed if not f.delivery.waited]
    if fresh:
        connection.execute(
            sa.insert(leftovers),
            [
                {
                    "workflow_id": workflow_id,
                    "seq": f.delivery.seq,
                    "lane": done.lane,
                    "computation_id": f.delivery.computation_id,
                    "user_id": f.delivery.user_id,
                    "chained": f.chained,
                    "sync_id": f.delivery.sync_id,
                    "value": f.delivery.value,
                    "merged_into": f.merged_into,
                    "attempts": f.attempts,
                    "first_attempt_at": now,
                    "next_attempt_at": f.next_attempt_at,
                    "status_code": f.status_code,
                    "error": f.error,
                    "dead_at": now if f.dead else None,
                }
                for f in fresh
            ],
        )
    if done.attempts:
        connection.execute(
            sa.insert(attempts),
            [
                {
                    "workflow_id": workflow_id,
                    "seq": a.delivery.seq,
                    "computation_id": a.delivery.computation_id,
                    "user_id": a.delivery.user_id,
                    "at": a.at,
                    "seconds": a.seconds,
                    "status_code": a.status_code,
                    "error": a.error,
                    "answer": a.answer,
                }
                for a in done.attempts
            ],
        )
    if done.acknowledged or done.attempts:
        connection.execute(
            sa.insert(checkpoints).values(
                workflow_id=workflow_id,
                lane=done.lane,
                at=now,
                from_seq=done.from_seq,
                to_seq=done.from_seq if done.cursor is None else done.cursor,
                acknowledged=done.acknowledged,
                failed=len(done.attempts),
                seconds=done.seconds,
            )
        )
        changed: dict[str, Any] = {}
        if done.acknowledged:
            changed = {"last_ack_at": now, "paused_at": None}
            if not done.attempts:
                changed |= {"last_error": None, "last_error_at": None}
        if done.attempts:
            last = done.attempts[-1]
            changed |= {"last_error_at": last.at, "last_error": last.error}
        connection.execute(sa.update(workflows).where(workflows.c.id == workflow_id).values(**changed))
    return True


def next_due(connection: Connection, workflow_id: int, which: Sequence[int]) -> datetime | None:
    """When the next leftover of these lanes may be tried again; None when none waits."""
    return connection.execute(
        sa.select(sa.func.min(leftovers.c.next_attempt_at)).where(
            leftovers.c.workflow_id == workflow_id, leftovers.c.lane.in_(which), leftovers.c.dead_at.is_(None)
        )
    ).scalar()


def chained(connection: Connection) -> frozenset[int]:
    """The computations whose rows go out one after another for each user."""
    query = sa.select(computations.c.id).where(computations.c["class"] == CHAINED)
    return frozenset(connection.execute(query).scalars())
