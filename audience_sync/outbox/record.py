"""Moving `synced` forward and writing the outbox, in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.diff import ENTERED, EXITED, Difference, changes, leave_out_forgotten
from audience_sync.outbox.lanes import lane_of
from audience_sync.state.suppression import is_suppressed, somebody_is_forgotten
from audience_sync.state.tables import former, leftovers, meta, outbox, routes, synced

NEVER_EQUAL = ""
"""`previous` of a row that must be sent whatever the workflow was told before: no JSON text is empty."""


def take_turn(connection: Connection) -> None:
    """Wait until no other transaction writes the outbox. SQLite has one writer anyway."""
    if connection.dialect.name != "sqlite":
        connection.execute(sa.select(meta.c.value).where(meta.c.name == "state_id").with_for_update())


def head(connection: Connection) -> int:
    return int(connection.execute(sa.select(sa.func.coalesce(sa.func.max(outbox.c.seq), 0))).scalar_one())


def record(
    connection: Connection,
    *,
    sync_id: int,
    computation_id: int,
    klass: str,
    initial: bool,
    workflow_ids: Sequence[int],
    difference: Difference,
) -> tuple[int, int]:
    """Write what `diff.compare` found, in the caller's transaction.

    Returns the outbox's last sequence number and, for a first sync, how many members it wrote.

    A workflow that hears of the computation for the first time is sent all of `synced` as it is after this sync,
    in rows of its own, and takes part in the shared rows only from then on. One that heard of it before, and for a
    while did not, is also told who is no longer in: it may believe otherwise.
    """
    take_turn(connection)
    forgetting = somebody_is_forgotten(connection)
    if forgetting:  # also those who were forgotten since the diff
        leave_out_forgotten(connection, difference.nr)
    audience = klass == "audience"
    of_this = routes.c.computation_id == computation_id
    ever = dict(connection.execute(sa.select(routes.c.workflow_id, routes.c.ended).where(of_this)).all())
    known = {workflow for workflow, ended in ever.items() if not ended}
    new = [workflow for workflow in workflow_ids if workflow not in known]
    if gone := known - set(workflow_ids):
        connection.execute(sa.update(routes).where(of_this, routes.c.workflow_id.in_(gone)).values(ended=True))
        connection.execute(
            sa.delete(leftovers).where(leftovers.c.computation_id == computation_id, leftovers.c.workflow_id.in_(gone))
        )
    start = head(connection)
    written = 0
    found = sa.select(changes).where(changes.c.nr == difference.nr).subquery("found")
    if initial:
        if difference.direct is None:
            written = _insert_synced(connection, computation_id, found)
        else:
            written = _insert_directly(connection, computation_id, difference.direct)
        if forgetting and difference.direct is not None:
            forgotten = sa.and_(synced.c.computation_id == computation_id, is_suppressed(connection, synced.c.user_id))
            written -= connection.execute(sa.delete(synced).where(forgotten)).rowcount
        everyone = (
            sa.select(synced.c.user_id, synced.c.value).where(synced.c.computation_id == computation_id).subquery()
        )
        told: Any = sa.literal("true") if audience else everyone.c.value
        before: Any = sa.cast(sa.null(), sa.Text) if audience else sa.literal("null")
        _insert(connection, sync_id, computation_id, everyone, told, before)
    elif difference.total:
        exited, entered = found.c.kind == EXITED, found.c.kind == ENTERED
        if audience:
            told, before = sa.case((exited, "false"), else_="true"), sa.cast(sa.null(), sa.Text)
        else:
            told = sa.case((exited, "null"), else_=found.c.value)
            before = sa.func.coalesce(found.c.previous, "null")
        if known & set(workflow_ids):
            _insert(connection, sync_id, computation_id, found, told, before)
        of_computation = synced.c.computation_id == computation_id
        connection.execute(
            sa.delete(synced).where(of_computation, synced.c.user_id.in_(sa.select(found.c.user_id).where(~entered)))
        )
        _insert_synced(connection, computation_id, sa.select(found).where(~exited).subquery())
        connection.execute(
            sa.delete(former).where(
                former.c.computation_id == computation_id,
                former.c.user_id.in_(sa.select(found.c.user_id).where(entered)),
            )
        )
        _note_former(connection, sync_id, computation_id, sa.select(found.c.user_id).where(exited))
    since = start if initial else head(connection)
    for workflow in new:
        if workflow in ever:
            connection.execute(
                sa.update(routes).where(of_this, routes.c.workflow_id == workflow).values(since_seq=since, ended=False)
            )
        else:
            connection.execute(
                sa.insert(routes).values(
                    workflow_id=workflow, computation_id=computation_id, since_seq=since, ended=False
                )
            )
        if initial:
            continue
        value = sa.literal("true") if audience else synced.c.value
        _send_all(connection, sync_id, computation_id, workflow, synced, value)
        if workflow in ever:
            _send_all(
                connection,
                sync_id,
                computation_id,
                workflow,
                former,
                sa.literal("false" if audience else "null"),
            )
    return head(connection), written


def record_removal(connection: Connection, *, sync_id: int, computation_id: int, klass: str) -> int:
    """Tell all members of a removed computation false (null for a trait), and forget that they were synced."""
    take_turn(connection)
    members = sa.select(synced.c.user_id, synced.c.value).where(synced.c.computation_id == computation_id).subquery()
    audience = klass == "audience"
    _insert(
        connection,
        sync_id,
        computation_id,
        members,
        sa.literal("false" if audience else "null"),
        sa.cast(sa.null(), sa.Text) if audience else members.c.value,
    )
    _note_former(connection, sync_id, computation_id, sa.select(members.c.user_id))
    connection.execute(sa.delete(synced).where(synced.c.computation_id == computation_id))
    return head(connection)


def _insert_directly(connection: Connection, computation_id: int, ids: sa.Select[Any]) -> int:
    """As `_insert_synced`, with nothing around the audience's own SELECT: the order of an index is not lost in it."""
    member = ids.add_columns(sa.literal(computation_id, sa.BigInteger), sa.cast(sa.null(), sa.Text))
    connection.execute(
        sa.insert(synced).from_select(["user_id", "computation_id", "value"], member.order_by("user_id"))
    )
    of_it = synced.c.computation_id == computation_id
    return int(connection.execute(sa.select(sa.func.count()).select_from(synced).where(of_it)).scalar_one())


def _insert_synced(connection: Connection, computation_id: int, rows: sa.FromClause) -> int:
    """Returns how many rows were written."""
    member = sa.select(sa.literal(computation_id, sa.BigInteger), rows.c.user_id, rows.c.value)
    written = connection.execute(
        sa.insert(synced).from_select(["computation_id", "user_id", "value"], member.order_by(rows.c.user_id)),
        execution_options={"preserve_rowcount": True},
    )
    return written.rowcount


def _insert(
    connection: Connection, sync_id: int, computation_id: int, rows: sa.FromClause, value: Any, previous: Any
) -> None:
    connection.execute(
        sa.insert(outbox).from_select(
            ["lane", "computation_id", "sync_id", "user_id", "value", "previous"],
            sa.select(
                lane_of(rows.c.user_id, connection.dialect.name),
                sa.literal(computation_id, sa.BigInteger),
                sa.literal(sync_id, sa.BigInteger),
                rows.c.user_id,
                value,
                previous,
            ).order_by(rows.c.user_id),
        )
    )


def _send_all(
    connection: Connection, sync_id: int, computation_id: int, workflow: int, whom: sa.Table, value: Any
) -> None:
    connection.execute(
        sa.insert(outbox).from_select(
            ["lane", "computation_id", "sync_id", "workflow_id", "user_id", "value", "previous"],
            sa.select(
                lane_of(whom.c.user_id, connection.dialect.name),
                sa.literal(computation_id, sa.BigInteger),
                sa.literal(sync_id, sa.BigInteger),
                sa.literal(workflow, sa.BigInteger),
                whom.c.user_id,
                value,
                sa.literal(NEVER_EQUAL),
            )
            .where(whom.c.computation_id == computation_id)
            .order_by(whom.c.user_id),
        )
    )


def _note_former(connection: Connection, sync_id: int, computation_id: int, users: sa.Select[Any]) -> None:
    found = users.subquery()
    connection.execute(
        sa.insert(former).from_select(
            ["computation_id", "user_id", "sync_id"],
            sa.select(
                sa.literal(computation_id, sa.BigInteger), found.c.user_id, sa.literal(sync_id, sa.BigInteger)
            ).order_by(found.c.user_id),
        )
    )
