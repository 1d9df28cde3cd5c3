"""Moving `synced` forward and writing the outbox, in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.diff import ENTERED, EXITED, Difference, changes, count
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
    kept_members: sa.Table | None = None,
) -> tuple[int, Difference]:
    """Write what `diff.compare` found, in the caller's transaction.

    Where the source keeps the snapshots, `synced` holds nobody: `kept_members` is then a table of this connection's
    with everyone as of this sync, filled on a first sync and if `somebody_hears_first`.

    Returns the outbox's last sequence number, and what was written: users forgotten since the diff are not in it.

    A workflow that hears of the computation for the first time is sent all of `synced` as it is after this sync,
    in rows of its own, and takes part in the shared rows only from then on. One that heard of it before, and for a
    while did not, is also told who is no longer in: it may believe otherwise.
    """
    take_turn(connection)
    forgetting = somebody_is_forgotten(connection)
    if forgetting:  # also those who were forgotten since the diff
        difference = replace(count(connection, difference.nr, difference.before), direct=difference.direct)
    audience = klass == "audience"
    of_this = routes.c.computation_id == computation_id
    ever = _ever_told(connection, computation_id)
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
    everyone = _members(connection, computation_id, kept_members)
    if kept_members is not None:
        connection.execute(sa.delete(synced).where(synced.c.computation_id == computation_id))
    if initial:
        if kept_members is not None:
            written = connection.execute(sa.select(sa.func.count()).select_from(everyone)).scalar_one()
        elif difference.direct is None:
            written = _insert_synced(connection, computation_id, found)
        else:
            written = _insert_directly(connection, computation_id, difference.direct)
        if forgetting and difference.direct is not None:
            forgotten = sa.and_(synced.c.computation_id == computation_id, is_suppressed(connection, synced.c.user_id))
            written -= connection.execute(sa.delete(synced).where(forgotten)).rowcount
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
        if kept_members is None:
            of_computation = synced.c.computation_id == computation_id
            gone_or_changed = synced.c.user_id.in_(_in_order(found.c.user_id, ~entered))
            connection.execute(sa.delete(synced).where(of_computation, gone_or_changed))
            _insert_synced(connection, computation_id, sa.select(found).where(~exited).subquery())
        connection.execute(
            sa.delete(former).where(
                former.c.computation_id == computation_id,
                former.c.user_id.in_(_in_order(found.c.user_id, entered)),
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
        value = sa.literal("true") if audience else everyone.c.value
        _send_all(connection, sync_id, computation_id, workflow, everyone, value)
        if workflow in ever:
            left = sa.select(former.c.user_id).where(former.c.computation_id == computation_id).subquery()
            told = sa.literal("false" if audience else "null")
            _send_all(connection, sync_id, computation_id, workflow, left, told)
    return head(connection), replace(difference, entered=written) if initial else difference


def _in_order(user_id: sa.ColumnElement[str], condition: sa.ColumnElement[bool]) -> sa.Select[Any]:
    """Users to be looked up. PostgreSQL would hash them, to have each once, and go up and down the index."""
    return sa.select(user_id).where(condition).distinct().order_by(user_id)


def somebody_hears_first(connection: Connection, computation_id: int, workflow_ids: Sequence[int]) -> bool:
    """Whether one of these workflows is going to be sent everyone by `record`."""
    known = _ever_told(connection, computation_id)
    return any(known.get(workflow, True) for workflow in workflow_ids)


def _ever_told(connection: Connection, computation_id: int) -> dict[int, bool]:
    """The workflows that have ever heard of the computation; whether each has ceased to."""
    of_this = routes.c.computation_id == computation_id
    return dict(connection.execute(sa.select(routes.c.workflow_id, routes.c.ended).where(of_this)).all())


def _members(connection: Connection, computation_id: int, kept_members: sa.Table | None) -> sa.FromClause:
    if kept_members is not None:
        if somebody_is_forgotten(connection):  # the warehouse's snapshot may not know it yet
            connection.execute(sa.delete(kept_members).where(is_suppressed(connection, kept_members.c.user_id)))
        return kept_members
    return sa.select(synced.c.user_id, synced.c.value).where(synced.c.computation_id == computation_id).subquery()


def record_removal(
    connection: Connection,
    *,
    sync_id: int,
    computation_id: int,
    klass: str,
    kept_members: sa.Table | None = None,
) -> int:
    """Tell all members of a removed computation false (null for a trait), and forget that they were synced.

    `kept_members`, filled, where `synced` holds nobody, as in `record`.
    """
    take_turn(connection)
    members = _members(connection, computation_id, kept_members)
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
    return _written(connection, ["user_id", "computation_id", "value"], member.order_by("user_id"))


def _insert_synced(connection: Connection, computation_id: int, rows: sa.FromClause) -> int:
    member = sa.select(sa.literal(computation_id, sa.BigInteger), rows.c.user_id, rows.c.value)
    return _written(connection, ["computation_id", "user_id", "value"], member.order_by(rows.c.user_id))


def _written(connection: Connection, columns: Sequence[str], members: sa.Select[Any]) -> int:
    """Returns how many rows were written."""
    insert = sa.insert(synced).from_select(columns, members)
    return connection.execute(insert, execution_options={"preserve_rowcount": True}).rowcount


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
    connection: Connection, sync_id: int, computation_id: int, workflow: int, whom: sa.FromClause, value: Any
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
            ).order_by(whom.c.user_id),
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
