"""What was found: the users of each computation who entered, exited or changed, until it is recorded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.snapshot import analyze
from audience_sync.state.suppression import is_suppressed, somebody_is_forgotten
from audience_sync.state.tables import PREFIX, UserId

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
    # On PostgreSQL no more than what finds one computation's rows among those of 200: it is filled in its own order.
    sa.Index(PREFIX + "changes_of", "nr").ddl_if(dialect="postgresql"),
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
    left_out: int = 0
    """How many of the snapshot are forgotten, and so in none of these numbers."""

    @property
    def total(self) -> int:
        return self.entered + self.exited + self.changed

    @property
    def size(self) -> int:
        return self.before + self.entered - self.exited

    @property
    def users(self) -> int:
        """How many the snapshot holds, those who are forgotten included."""
        return self.size + self.left_out


NULL = sa.cast(sa.null(), sa.Text)
COLUMNS = ["nr", "user_id", "kind", "value", "previous", "other"]


def found(
    nr: int,
    user_id: sa.ColumnElement[Any],
    kind: Any,
    value: sa.ColumnElement[Any] = NULL,
    previous: sa.ColumnElement[Any] = NULL,
    other: sa.ColumnElement[Any] = NULL,
) -> sa.Select[Any]:
    kind = sa.literal(kind) if isinstance(kind, str) else kind
    return sa.select(
        sa.literal(nr, sa.Integer).label("nr"),
        user_id.label("user_id"),
        kind.label("kind"),
        value.label("value"),
        previous.label("previous"),
        other.label("other"),
    )


def add(state: Connection, found: sa.Select[Any]) -> int:
    """Put these into `changes`; returns how many."""
    kept = {"preserve_rowcount": True}
    return state.execute(sa.insert(changes).from_select(COLUMNS, found), execution_options=kept).rowcount


def count(state: Connection, nr: int, before: int) -> Difference:
    """What `changes` holds of a computation, those left out who are forgotten. `before`: how many synced holds."""
    left_out = leave_out_forgotten(state, nr) if somebody_is_forgotten(state) else 0
    # Not by GROUP BY, for which SQLite sorts them.
    of_kind = [sa.func.sum(sa.case((changes.c.kind == kind, 1), else_=0)) for kind in (ENTERED, EXITED, CHANGED)]
    entered, exited, changed = (
        int(number or 0) for number in state.execute(sa.select(*of_kind).where(changes.c.nr == nr)).one()
    )
    return Difference(nr, entered, exited, changed, before, left_out=left_out)


def weigh(state: Connection) -> None:
    """Tell the planner how much was found of all computations, before it is recorded."""
    analyze(state, changes)


def leave_out_forgotten(state: Connection, nr: int) -> int:
    """Take users who are forgotten out of what was found; returns how many."""
    gone = sa.delete(changes).where(changes.c.nr == nr, is_suppressed(state, changes.c.user_id))
    return state.execute(gone).rowcount


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
