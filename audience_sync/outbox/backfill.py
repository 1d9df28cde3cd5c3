"""Rows of the outbox for one workflow that tell it what the others know already.

A chunk and the place it reaches are written in one transaction, in turn with the other writers of the outbox; its
values are those of `synced` at that moment. So whatever changed before is older in the outbox, whatever changes later
is newer, and windows do the rest: a backfill never overtakes a change, nor is it overtaken.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.outbox.lanes import lane_of
from audience_sync.outbox.record import NEVER_EQUAL, take_turn
from audience_sync.state.suppression import is_suppressed, somebody_is_forgotten
from audience_sync.state.tables import backfills, computations, former, outbox, synced


@dataclass(frozen=True)
class Written:
    """What a chunk wrote, and whether it was the last."""

    rows: int
    is_last: bool


@dataclass(frozen=True)
class Page:
    """The next members of a computation whose snapshots the source keeps, in a table of the state's connection."""

    table: sa.Table
    snapshot: str
    is_last: bool


def unfinished(connection: Connection, workflow_id: int, computation_id: int) -> Any:
    """The backfill of this pair that was begun and not finished, or None."""
    return connection.execute(
        sa.select(backfills).where(
            backfills.c.workflow_id == workflow_id,
            backfills.c.computation_id == computation_id,
            backfills.c.finished_at.is_(None),
        )
    ).first()


def begin(
    connection: Connection, workflow_id: int, computation_id: int, sync_id: int, *, include_exited: bool, now: datetime
) -> int:
    """Begin a backfill; returns its id."""
    id_: int = connection.execute(
        sa.insert(backfills)
        .values(
            workflow_id=workflow_id,
            computation_id=computation_id,
            sync_id=sync_id,
            include_exited=include_exited,
            at_exited=False,
            written=0,
            started_at=now,
        )
        .returning(backfills.c.id)
    ).scalar_one()
    return id_


def left(connection: Connection, backfill_id: int, members: Callable[[str, str | None], int]) -> int:
    """How many users it has still to write, as things are now. `members` counts those of a snapshot that is kept by the
    source, after a user."""
    row = place(connection, backfill_id)
    count = 0
    for exited, whom in ((False, synced), (True, former)):
        if (exited and not row.include_exited) or (row.at_exited and not exited):
            continue
        after = row.after_user if row.at_exited == exited else None
        if not exited and (snapshot := kept_at(connection, row.computation_id)) is not None:
            count += members(snapshot, after)
            continue
        query = sa.select(sa.func.count()).where(whom.c.computation_id == row.computation_id)
        if after is not None:
            query = query.where(whom.c.user_id > after)
        count += connection.execute(query).scalar_one()
    return count


def kept_at(connection: Connection, computation_id: int) -> str | None:
    """The snapshot that the source keeps in the place of `synced`; None where it keeps none."""
    found: str | None = connection.execute(
        sa.select(computations.c.snapshot).where(computations.c.id == computation_id)
    ).scalar_one()
    return found


def place(connection: Connection, backfill_id: int) -> Any:
    """Where it stands: `at_exited`, and `after_user`, the last one written."""
    return connection.execute(sa.select(backfills).where(backfills.c.id == backfill_id)).one()


def write_chunk(connection: Connection, backfill_id: int, limit: int, page: Page | None = None) -> Written | None:
    """Write the next users, up to `limit`, in key order; in the caller's transaction.

    Members come from the `page`, where the source keeps the snapshots; None if a sync has moved on to another one: get
    a page of that.
    """
    take_turn(connection)
    row = place(connection, backfill_id)
    if not row.at_exited and kept_at(connection, row.computation_id) != (page.snapshot if page else None):
        return None
    whom: sa.Table = former if row.at_exited else synced
    here = whom.c.computation_id == row.computation_id
    if page is not None and not row.at_exited:
        whom = page.table
        # The snapshot may not know yet who is forgotten.
        here = ~is_suppressed(connection, whom.c.user_id) if somebody_is_forgotten(connection) else sa.true()
    if row.after_user is not None:
        here = sa.and_(here, whom.c.user_id > row.after_user)
    chunk = sa.select(whom.c.user_id).where(here).order_by(whom.c.user_id).limit(limit).subquery()
    last, rows = connection.execute(sa.select(sa.func.max(chunk.c.user_id), sa.func.count()).select_from(chunk)).one()
    if last is not None:
        klass = connection.execute(sa.select(computations.c["class"]).where(computations.c.id == row.computation_id))
        is_audience = klass.scalar_one() == "audience"
        if row.at_exited:
            value: Any = sa.literal("false" if is_audience else "null")
        else:
            value = sa.literal("true") if is_audience else whom.c.value
        connection.execute(
            sa.insert(outbox).from_select(
                ["lane", "computation_id", "sync_id", "workflow_id", "user_id", "value", "previous"],
                sa.select(
                    lane_of(whom.c.user_id, connection.dialect.name),
                    sa.literal(row.computation_id, sa.BigInteger),
                    sa.literal(row.sync_id, sa.BigInteger),
                    sa.literal(row.workflow_id, sa.BigInteger),
                    whom.c.user_id,
                    value,
                    sa.literal(NEVER_EQUAL),
                )
                .where(here, whom.c.user_id <= last)
                .order_by(whom.c.user_id),
            )
        )
    reached: dict[str, Any] = {"after_user": last or row.after_user, "written": backfills.c.written + rows}
    ended = rows < limit and (page is None or page.is_last or row.at_exited)
    is_last = ended and (row.at_exited or not row.include_exited)
    if ended and not is_last:
        reached |= {"at_exited": True, "after_user": None}
    connection.execute(sa.update(backfills).where(backfills.c.id == backfill_id).values(**reached))
    return Written(rows, is_last)


def finish(connection: Connection, backfill_id: int, now: datetime) -> None:
    """Note that all of it is delivered; the next one begins anew."""
    connection.execute(sa.update(backfills).where(backfills.c.id == backfill_id).values(finished_at=now))
