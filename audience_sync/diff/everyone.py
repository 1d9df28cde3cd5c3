"""The diff of everyone: snapshot against synced."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.computations import Computation
from audience_sync.diff.changes import CHANGED, ENTERED, EXITED, NULL, Difference, add, changes, count, found
from audience_sync.diff.plans import is_ordered_scan, prefer_merging
from audience_sync.snapshot import refuse_two_values, snapshot, stage
from audience_sync.state.suppression import somebody_is_forgotten
from audience_sync.state.tables import synced


def compare(
    state: Connection,
    source: Connection | None,
    computation: Computation,
    computation_id: int | None,
    before: int,
    nr: int,
    source_url: str,
    *,
    may_be_direct: bool = False,
) -> Difference:
    """Fill `changes` from the snapshot and what was last synced of a computation. `before`: how many synced holds.

    `computation_id` None stands for one that was never synced: everyone entered. `source` None: its tables are read
    through the state's connection.
    """
    may_be_direct = may_be_direct and computation_id is None and source is None
    if may_be_direct and computation.ids is not None and not somebody_is_forgotten(state):
        return Difference(nr, 0, 0, 0, 0, direct=computation.ids)
    now = _snapshot(state, source, computation, source_url)
    if computation_id is None:
        add(state, found(nr, now.rows.c.user_id, ENTERED, now.value).order_by(now.rows.c.user_id))
    else:
        was = sa.select(synced.c.user_id, synced.c.value).where(synced.c.computation_id == computation_id)
        if state.dialect.name == "sqlite":
            _merge(state, nr, now, was)
        else:
            prefer_merging(state, sa.select(now.rows))
            add(state, joined(nr, now.rows, was.subquery("was"), of_traits=now.of_traits))
    if now.of_traits:
        refuse_two_values(state, changes, changes.c.nr == nr)
    return count(state, nr, before)


@dataclass(frozen=True)
class _Snapshot:
    """What the diff reads: the computation itself where that is cheap enough, else the staged rows."""

    rows: sa.FromClause
    users: sa.Select[Any]
    """The same users, as a SELECT that can be merged with another in their order."""
    of_traits: bool

    @property
    def value(self) -> sa.ColumnElement[Any]:
        return self.rows.c.value if self.of_traits else NULL

    @property
    def other(self) -> sa.ColumnElement[Any]:
        return self.rows.c.other if self.of_traits else NULL


def _snapshot(state: Connection, source: Connection | None, computation: Computation, source_url: str) -> _Snapshot:
    ids, of_traits = computation.ids, computation.klass != "audience"
    if source is None and ids is not None:
        if state.dialect.name == "postgresql" or is_ordered_scan(state, ids):
            return _Snapshot(ids.subquery("now"), ids, of_traits)
    elif source is None and state.dialect.name == "postgresql":
        rows = computation.rows.subquery("now")
        return _Snapshot(rows, sa.select(rows.c.user_id), of_traits)
    stage(state, source, computation, source_url)
    return _Snapshot(snapshot, sa.select(snapshot.c.user_id), of_traits)


def joined(nr: int, now: sa.FromClause, was: sa.FromClause, *, of_traits: bool) -> sa.Select[Any]:
    """Both directions in one statement: what `changes` is filled with."""
    kind = sa.case((was.c.user_id.is_(None), ENTERED), (now.c.user_id.is_(None), EXITED), else_=CHANGED)
    differs = sa.or_(was.c.user_id.is_(None), now.c.user_id.is_(None))
    value: sa.ColumnElement[Any] = NULL
    previous: sa.ColumnElement[Any] = NULL
    other: sa.ColumnElement[Any] = NULL
    if of_traits:
        value, previous, other = now.c.value, was.c.value, now.c.other
        differs = sa.or_(differs, value != previous, other.is_not(None))
    return (
        found(nr, sa.func.coalesce(now.c.user_id, was.c.user_id), kind, value, previous, other)
        .select_from(now.join(was, now.c.user_id == was.c.user_id, full=True))
        .where(differs)
    )


def _merge(state: Connection, nr: int, now: _Snapshot, before: sa.Select[Any]) -> None:
    was = before.subquery("was")
    old = before.with_only_columns(synced.c.user_id)
    # LIMIT -1, which limits nothing, keeps SQLite from dropping the order, and with it the merge.
    entered = sa.except_(now.users, old).order_by("user_id").limit(-1).subquery("entered")
    exited = sa.except_(old, now.users).order_by("user_id").limit(-1).subquery("exited")
    if not now.of_traits:
        add(state, found(nr, entered.c.user_id, ENTERED))
        add(state, found(nr, exited.c.user_id, EXITED))
        return
    value = sa.select(now.rows.c.value).where(now.rows.c.user_id == entered.c.user_id).scalar_subquery()
    previous = sa.select(was.c.value).where(was.c.user_id == exited.c.user_id).scalar_subquery()
    add(state, found(nr, entered.c.user_id, ENTERED, value))
    add(state, found(nr, exited.c.user_id, EXITED, previous=previous))
    add(
        state,
        found(nr, now.rows.c.user_id, CHANGED, now.value, was.c.value)
        .select_from(now.rows.join(was, now.rows.c.user_id == was.c.user_id))
        .where(now.rows.c.value != was.c.value),
    )
