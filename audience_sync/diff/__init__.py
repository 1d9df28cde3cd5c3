"""Snapshot against synced: who entered, who exited, whose value changed. Set SQL, inside the database.

Both sides are read in the order of the ids' bytes and merged, once, with no table of the whole snapshot between
where source and state are one: that is the cheapest way there is on PostgreSQL (one FULL OUTER JOIN) and on
SQLite (EXCEPT of two ordered arms, which it merges; FULL OUTER JOIN and NOT EXISTS look up each row). The figures
are in docs/diff.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.computations import Computation
from audience_sync.diff.plans import is_ordered_scan, prefer_merging
from audience_sync.snapshot import refuse_two_values, snapshot, stage
from audience_sync.state.suppression import is_suppressed, somebody_is_forgotten
from audience_sync.state.tables import PREFIX, UserId, synced

ENTERED, EXITED, CHANGED = "entered", "exited", "changed"

changes = sa.Table(
    PREFIX + "changes",
    sa.MetaData(),
    sa.Column("nr", sa.Integer, nullable=False),  # which computation of the job's sync
    sa.Column("user_id", UserId, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("value", sa.Text),  # as in the snapshot; NULL when exited
    sa.Column("previous", sa.Text),  # as in synced; NULL when entered
    sa.Column("other", sa.Text),
    sa.PrimaryKeyConstraint("nr", "user_id").ddl_if(dialect="sqlite"),
    prefixes=["TEMPORARY"],
    sqlite_with_rowid=False,
)
"""What was found of every computation of a job's sync, until it is recorded."""


@dataclass(frozen=True)
class Difference:
    """What one computation's diff found; the users are in `changes`, unless it is a first sync read `direct`ly."""

    nr: int
    entered: int
    exited: int
    changed: int
    before: int
    """How many users synced holds."""
    direct: sa.Select[Any] | None = None
    """What gives everyone of a first sync, to be written to synced with no temporary table between."""

    @property
    def total(self) -> int:
        return self.entered + self.exited + self.changed

    @property
    def size(self) -> int:
        return self.before + self.entered - self.exited


def compare(
    state: Connection,
    source: Connection | None,
    computation: Computation,
    computation_id: int | None,
    nr: int,
    source_url: str,
    *,
    may_be_direct: bool = False,
) -> Difference:
    """Fill `changes` from the snapshot and what was last synced of a computation.

    `computation_id` None stands for one that was never synced: everyone entered. `source` None: its tables are read
    through the state's connection.
    """
    forgetting = somebody_is_forgotten(state)
    if computation_id is None and source is None and may_be_direct and not forgetting and computation.ids is not None:
        return Difference(nr, 0, 0, 0, 0, direct=computation.rows)
    now = _snapshot(state, source, computation, source_url)
    before = 0
    if computation_id is None:
        _add(state, _found(nr, now.rows.c.user_id, ENTERED, now.value).order_by(now.rows.c.user_id))
    else:
        was = sa.select(synced.c.user_id, synced.c.value).where(synced.c.computation_id == computation_id)
        if state.dialect.name == "sqlite":
            _merge(state, nr, now, was)
        else:
            prefer_merging(state, sa.select(now.rows))
            _join(state, nr, now, was)
        before = state.execute(sa.select(sa.func.count()).select_from(was.subquery())).scalar_one()
    refuse_two_values(state, computation, changes)
    if forgetting:
        leave_out_forgotten(state, nr)
    per_kind = sa.select(changes.c.kind, sa.func.count()).where(changes.c.nr == nr).group_by(changes.c.kind)
    counts: dict[str, int] = dict(state.execute(per_kind).all())
    return Difference(nr, counts.get(ENTERED, 0), counts.get(EXITED, 0), counts.get(CHANGED, 0), before)


def leave_out_forgotten(state: Connection, nr: int) -> None:
    """Take users who are forgotten out of what was found."""
    state.execute(sa.delete(changes).where(changes.c.nr == nr, is_suppressed(state, changes.c.user_id)))


@dataclass(frozen=True)
class _Snapshot:
    """What the diff reads: the computation itself where that is cheap enough, else the staged rows."""

    rows: sa.FromClause
    users: sa.Select[Any]
    """The same users, as a SELECT that can be merged with another in their order."""
    of_traits: bool

    @property
    def value(self) -> sa.ColumnElement[Any]:
        return self.rows.c.value if self.of_traits else _NULL

    @property
    def other(self) -> sa.ColumnElement[Any]:
        return self.rows.c.other if self.of_traits else _NULL


def _snapshot(state: Connection, source: Connection | None, computation: Computation, source_url: str) -> _Snapshot:
    ids = computation.ids
    if source is None and ids is not None:
        if state.dialect.name == "postgresql" or is_ordered_scan(state, ids):
            return _Snapshot(ids.subquery("now"), ids, of_traits=False)
    elif source is None and state.dialect.name == "postgresql":
        rows = computation.rows.subquery("now")
        return _Snapshot(rows, sa.select(rows.c.user_id), of_traits=True)
    stage(state, source, computation, source_url)
    return _Snapshot(snapshot, sa.select(snapshot.c.user_id), of_traits=ids is None)


_NULL = sa.cast(sa.null(), sa.Text)
_COLUMNS = ["nr", "user_id", "kind", "value", "previous", "other"]


def _found(
    nr: int,
    user_id: sa.ColumnElement[Any],
    kind: Any,
    value: sa.ColumnElement[Any] = _NULL,
    previous: sa.ColumnElement[Any] = _NULL,
    other: sa.ColumnElement[Any] = _NULL,
) -> sa.Select[Any]:
    kind = sa.literal(kind) if isinstance(kind, str) else kind
    return sa.select(sa.literal(nr, sa.Integer), user_id, kind, value, previous, other)


def _add(state: Connection, found: sa.Select[Any]) -> None:
    state.execute(sa.insert(changes).from_select(_COLUMNS, found))


def _join(state: Connection, nr: int, now: _Snapshot, before: sa.Select[Any]) -> None:
    was = before.subquery("was")
    kind = sa.case((was.c.user_id.is_(None), ENTERED), (now.rows.c.user_id.is_(None), EXITED), else_=CHANGED)
    differs = sa.or_(was.c.user_id.is_(None), now.rows.c.user_id.is_(None))
    if now.of_traits:
        differs = sa.or_(differs, now.rows.c.value != was.c.value, now.rows.c.other.is_not(None))
    user_id = sa.func.coalesce(now.rows.c.user_id, was.c.user_id)
    previous = was.c.value if now.of_traits else _NULL
    _add(
        state,
        _found(nr, user_id, kind, now.value, previous, now.other)
        .select_from(now.rows.join(was, now.rows.c.user_id == was.c.user_id, full=True))
        .where(differs),
    )


def _merge(state: Connection, nr: int, now: _Snapshot, before: sa.Select[Any]) -> None:
    was = before.subquery("was")
    old = before.with_only_columns(synced.c.user_id)
    # LIMIT -1, which limits nothing, keeps SQLite from dropping the order, and with it the merge.
    entered = sa.except_(now.users, old).order_by("user_id").limit(-1).subquery("entered")
    exited = sa.except_(old, now.users).order_by("user_id").limit(-1).subquery("exited")
    if not now.of_traits:
        _add(state, _found(nr, entered.c.user_id, ENTERED))
        _add(state, _found(nr, exited.c.user_id, EXITED))
        return
    value = sa.select(now.rows.c.value).where(now.rows.c.user_id == entered.c.user_id).scalar_subquery()
    previous = sa.select(was.c.value).where(was.c.user_id == exited.c.user_id).scalar_subquery()
    _add(state, _found(nr, entered.c.user_id, ENTERED, value))
    _add(state, _found(nr, exited.c.user_id, EXITED, previous=previous))
    _add(
        state,
        _found(nr, now.rows.c.user_id, CHANGED, now.value, was.c.value)
        .select_from(now.rows.join(was, now.rows.c.user_id == was.c.user_id))
        .where(now.rows.c.value != was.c.value),
    )


def sample(state: Connection, nr: int, kind: str, limit: int = 5) -> list[str]:
    """The first few user ids that entered, exited or changed, by id."""
    query = (
        sa.select(changes.c.user_id)
        .where(changes.c.nr == nr, changes.c.kind == kind)
        .order_by(changes.c.user_id)
        .limit(limit)
    )
    return list(state.execute(query).scalars())


def must_hold(difference: Difference, guard: float | None) -> str | None:
    """Why this change is a surprise (DESIGN, rule 8), or None. A first sync is never asked."""
    if difference.before > 0 and difference.size == 0 and guard is not None:
        return f"all {difference.before:,} would leave"
    if guard is not None and difference.before > 1000 and difference.total > guard * difference.before:
        share = difference.total / difference.before
        return f"{difference.total:,} changes on {difference.before:,} ({share:.0%}; the guard is {guard:.0%})"
    return None
