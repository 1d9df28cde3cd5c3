"""Reading deliveries, a batch at a time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.outbox.lanes import COUNT
from audience_sync.outbox.windows import CHAINED, is_passed_over, routed
from audience_sync.state.tables import (
    computations,
    leftovers,
    outbox,
    passed_over,
    routes,
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
class Batch:
    """Deliveries of one lane: leftovers first, then fresh ones in the order of the outbox. `reaches` is where the
    cursor goes when all of them are done; `held_back` are users whose earlier message still waits."""

    lane: int
    deliveries: list[Delivery]
    reaches: int
    held_back: frozenset[str] = frozenset()


# Built once: to build these for each batch took as long as to run them.
_workflow, _lane = sa.bindparam("workflow", type_=sa.BigInteger), sa.bindparam("of_lane", type_=sa.SmallInteger)
_joined, _meant = routed(_workflow)
_FRESH = (
    sa.select(outbox.c.seq, outbox.c.computation_id, outbox.c.sync_id, outbox.c.user_id, outbox.c.value)
    .select_from(_joined)
    .where(
        outbox.c.lane == _lane,
        outbox.c.seq > sa.bindparam("after"),
        outbox.c.seq <= sa.bindparam("upto"),
        _meant,
        ~is_passed_over(_workflow),
    )
    .order_by(outbox.c.seq)
    .limit(sa.bindparam("room", type_=sa.BigInteger))
)
_of_lane = sa.and_(leftovers.c.workflow_id == _workflow, leftovers.c.lane == _lane, leftovers.c.dead_at.is_(None))
_ANY_LEFTOVER = sa.select(leftovers.c.seq).where(_of_lane).limit(1)
_HELD_BACK = sa.select(leftovers.c.user_id).where(_of_lane, leftovers.c.chained).distinct()
_before, _first = leftovers.alias("before"), leftovers.alias("first")
_behind_another = (
    sa.exists()
    .where(
        leftovers.c.chained,
        _before.c.workflow_id == _workflow,
        _before.c.user_id == leftovers.c.user_id,
        _before.c.chained,
        _before.c.dead_at.is_(None),
        _before.c.seq < leftovers.c.seq,
    )
    .correlate(leftovers)
)
_told_with_another = (
    sa.exists()
    .where(_first.c.workflow_id == _workflow, _first.c.seq == leftovers.c.merged_into, _first.c.dead_at.is_(None))
    .correlate(leftovers)
)
_LEFT = (
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
    .where(_of_lane)
)
_DUE = (
    _LEFT.where(leftovers.c.next_attempt_at <= sa.bindparam("now"), ~_behind_another, ~_told_with_another)
    .order_by(leftovers.c.next_attempt_at, leftovers.c.seq)
    .limit(sa.bindparam("room", type_=sa.BigInteger))
)


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
    of_lane = {"workflow": workflow_id, "of_lane": lane}
    found: list[Delivery] = []
    held_back: frozenset[str] = frozenset()
    if connection.execute(_ANY_LEFTOVER, of_lane).first() is not None:
        found = _due(connection, of_lane, limit, now)
        held_back = frozenset(connection.execute(_HELD_BACK, of_lane).scalars())
    room = limit - len(found)
    if room <= 0 or after >= end:
        return Batch(lane, found, after)
    fresh, reaches = _fresh(connection, of_lane, after, end, room)
    if merging and fresh:
        into = _merged(connection, workflow_id, after, reaches)
        fresh = [one._replace(merged=tuple(into[one.seq])) if one.seq in into else one for one in fresh]
    return Batch(lane, found + fresh, reaches, held_back)


def _fresh(
    connection: Connection, of_lane: dict[str, int], after: int, end: int, limit: int
) -> tuple[list[Delivery], int]:
    """At least half of `limit` deliveries if there are so many, and up to where they reach.

    Each look is at a stretch that is about to hold so many, so that it costs the same by whatever plan: PostgreSQL is
    bad at guessing how few rows it must read, and would sort all the rest of the lane for each batch.
    """
    found: list[Delivery] = []
    width = limit * COUNT[connection.dialect.name]
    while len(found) < limit / 2 and after < end:
        upto = min(after + width, end)
        room = limit - len(found)
        rows = connection.execute(_FRESH, {**of_lane, "after": after, "upto": upto, "room": room}).all()
        found += [Delivery(*row) for row in rows]
        after = upto if len(rows) < room else rows[-1].seq
        width *= 2  # most of it is for other workflows, or taken out
    return found, after


def _due(connection: Connection, of_lane: dict[str, int], limit: int, now: datetime) -> list[Delivery]:
    due = connection.execute(_DUE, {**of_lane, "now": now, "room": limit}).all()
    found = [Delivery(*row)._replace(waited=True) for row in due]
    if found:
        into: dict[int, list[Delivery]] = defaultdict(list)
        parts = _LEFT.add_columns(leftovers.c.merged_into).where(
            leftovers.c.merged_into.in_([one.seq for one in found])
        )
        for row in connection.execute(parts, of_lane):
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
