"""Lanes: shares of the users, so that several processes can deliver to one workflow at once.

**One user, one lane, one sender.** A lane is a function of the user id, and a sender takes deliveries only from lanes
that it holds the lease of; so one user's changes are never with two senders, and order holds across machines as it
does within one.

**A lease expires.** It is renewed while its sender lives. A sender that died is noticed at once where the server can
tell that its session is gone, and after `LEASE_SECONDS` where not (a machine that vanished, a pooler between).

**A late sender writes nothing.** A checkpoint names its holder; one whose lease went to another finds no such lane and
is rolled back, so a process that was frozen cannot move a cursor back.

SQLite has one lane: its users share one machine, whose file lock dies with its holder (`state.locks`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement
from sqlalchemy.engine import Connection

from audience_sync.state.tables import lanes, leftovers, outbox, senders, workflows

COUNT = {"sqlite": 1, "postgresql": 8}
LEASE_SECONDS = 20.0
RENEW_SECONDS = 1.0


def lane_of(user_id: ColumnElement[Any], dialect: str) -> ColumnElement[int]:
    """The lane of a user, as SQL."""
    if COUNT[dialect] == 1:
        return sa.literal(0, sa.SmallInteger)
    return sa.cast(sa.func.hashtext(user_id).op("&")(COUNT[dialect] - 1), sa.SmallInteger)


@dataclass(frozen=True)
class Held:
    """The lanes a sender holds, and those it must give up once nothing of them is in flight."""

    lanes: frozenset[int]
    excess: frozenset[int]
    elsewhere: bool
    """Whether other senders have something to deliver to the workflow."""


def sender_name(connection: Connection) -> str:
    """A name for the sender that works on this connection; the server can tell whether its session lives."""
    if connection.dialect.name == "sqlite":
        return "local"
    activity = sa.table("pg_stat_activity", sa.column("pid"), sa.column("backend_start"))
    return str(
        connection.execute(sa.select(_session(activity)).where(activity.c.pid == sa.func.pg_backend_pid())).scalar_one()
    )


def _session(activity: sa.TableClause) -> ColumnElement[str]:
    started = sa.func.extract("epoch", activity.c.backend_start)
    return sa.cast(activity.c.pid, sa.Text) + "@" + sa.cast(started, sa.Text)


def renew(connection: Connection, workflow_id: int, sender: str, now: datetime) -> Held:
    """Renew this sender's leases and take a fair share of the lanes that are free; in the caller's transaction."""
    # In turn: two that start at once would not see each other, and each take the other's lanes for nobody's.
    connection.execute(sa.select(workflows.c.id).where(workflows.c.id == workflow_id).with_for_update())
    until = now + timedelta(seconds=LEASE_SECONDS)
    mine = sa.and_(senders.c.workflow_id == workflow_id, senders.c.name == sender)
    if not connection.execute(sa.update(senders).where(mine).values(seen_until=until)).rowcount:
        connection.execute(sa.insert(senders).values(workflow_id=workflow_id, name=sender, seen_until=until))
    gone = sa.or_(senders.c.seen_until < now, ~_lives(connection))
    connection.execute(sa.delete(senders).where(senders.c.workflow_id == workflow_id, gone))
    others = list(
        connection.execute(
            sa.select(senders.c.name).where(senders.c.workflow_id == workflow_id, senders.c.name != sender)
        ).scalars()
    )
    share = -(-COUNT[connection.dialect.name] // (len(others) + 1))
    of_workflow = lanes.c.workflow_id == workflow_id
    held = set(
        connection.execute(
            sa.update(lanes)
            .where(of_workflow, lanes.c.leased_by == sender)
            .values(leased_until=until)
            .returning(lanes.c.lane)
        ).scalars()
    )
    free = sa.or_(lanes.c.leased_by.is_(None), lanes.c.leased_by.not_in([sender, *others]), lanes.c.leased_until < now)
    if len(held) < share:
        wanted = sa.select(lanes.c.lane).where(of_workflow, free).order_by(lanes.c.lane).limit(share - len(held))
        found = list(connection.execute(wanted.with_for_update(skip_locked=True)).scalars())
        if found:
            connection.execute(
                sa.update(lanes)
                .where(of_workflow, lanes.c.lane.in_(found))
                .values(leased_by=sender, leased_until=until)
            )
            held |= set(found)
    return Held(
        frozenset(held), frozenset(sorted(held)[share:]), bool(others) and _waiting(connection, workflow_id, held)
    )


def _waiting(connection: Connection, workflow_id: int, held: set[int]) -> bool:
    """Whether anything is undelivered in lanes other than these."""
    theirs = sa.and_(lanes.c.workflow_id == workflow_id, lanes.c.lane.not_in(held))
    newest = sa.select(sa.func.max(outbox.c.seq)).where(outbox.c.lane == lanes.c.lane).scalar_subquery()
    beyond = sa.select(lanes.c.lane).where(theirs, newest > lanes.c.cursor)
    behind = sa.select(leftovers.c.seq).where(
        leftovers.c.workflow_id == workflow_id, leftovers.c.lane.not_in(held), leftovers.c.dead_at.is_(None)
    )
    return any(connection.execute(query.limit(1)).first() is not None for query in (beyond, behind))


def _lives(connection: Connection) -> ColumnElement[bool]:
    """Whether the server still has the session of a row of `senders`, as far as it can tell."""
    if connection.dialect.name != "postgresql":
        return sa.true()
    activity = sa.table("pg_stat_activity", sa.column("pid"), sa.column("backend_start"))
    return (
        sa.exists()
        .where(
            sa.cast(activity.c.pid, sa.Text) == sa.func.split_part(senders.c.name, "@", 1),
            # Hidden where the session is another role's; then only the lease's end tells.
            sa.or_(activity.c.backend_start.is_(None), _session(activity) == senders.c.name),
        )
        .correlate(senders)
    )


def release(connection: Connection, workflow_id: int, sender: str, which: Iterable[int] | None = None) -> None:
    """Give up lanes (None: all, and leave)."""
    condition = [lanes.c.workflow_id == workflow_id, lanes.c.leased_by == sender]
    if which is not None:
        condition.append(lanes.c.lane.in_(list(which)))
    connection.execute(sa.update(lanes).where(*condition).values(leased_by=None, leased_until=None))
    if which is None:
        connection.execute(sa.delete(senders).where(senders.c.workflow_id == workflow_id, senders.c.name == sender))
