"""Snapshot against synced: who entered, who exited, whose value changed. One statement, inside the database."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from audience_sync.snapshot import snapshot, writing_temporary
from audience_sync.state.tables import PREFIX, UserId, synced

ENTERED, EXITED, CHANGED = "entered", "exited", "changed"

changes = sa.Table(
    PREFIX + "changes",
    sa.MetaData(),
    sa.Column("user_id", UserId, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("value", sa.Text),  # as in the snapshot; NULL when exited
    sa.Column("previous", sa.Text),  # as in synced; NULL when entered
    prefixes=["TEMPORARY"],
    sqlite_with_rowid=False,
)


@dataclass(frozen=True)
class Difference:
    entered: int
    exited: int
    changed: int
    before: int
    """How many users synced holds."""

    @property
    def total(self) -> int:
        return self.entered + self.exited + self.changed


def compare(state: Connection, computation_id: int | None) -> Difference:
    """Fill the temporary table `changes` from `snapshot` and what was last synced of a computation.

    `computation_id` None stands for one that was never synced: everyone entered.
    """
    before = sa.select(synced.c.user_id, synced.c.value).where(
        sa.false() if computation_id is None else synced.c.computation_id == computation_id
    )
    was, now = before.subquery("was"), snapshot
    null = sa.cast(sa.null(), sa.Text)
    entered = sa.select(now.c.user_id, sa.literal(ENTERED), now.c.value, null).where(
        ~sa.exists().where(was.c.user_id == now.c.user_id)
    )
    exited = sa.select(was.c.user_id, sa.literal(EXITED), null, was.c.value).where(
        ~sa.exists().where(now.c.user_id == was.c.user_id)
    )
    changed = (
        sa.select(now.c.user_id, sa.literal(CHANGED), now.c.value, was.c.value)
        .select_from(now.join(was, now.c.user_id == was.c.user_id))
        .where(now.c.value != was.c.value)
    )
    with writing_temporary(state):
        changes.create(state, checkfirst=True)
        state.execute(sa.delete(changes))
        state.execute(
            sa.insert(changes).from_select(
                ["user_id", "kind", "value", "previous"], sa.union_all(entered, exited, changed)
            )
        )
        per_kind = sa.select(changes.c.kind, sa.func.count()).group_by(changes.c.kind)
        counts: dict[str, int] = dict(state.execute(per_kind).all())
        total = state.execute(sa.select(sa.func.count()).select_from(was)).scalar_one()
        if state.dialect.name == "postgresql":
            state.exec_driver_sql("ANALYZE " + changes.name)
    return Difference(counts.get(ENTERED, 0), counts.get(EXITED, 0), counts.get(CHANGED, 0), total)


def sample(state: Connection, kind: str, limit: int = 5) -> list[str]:
    """The first few user ids that entered, exited or changed, by id."""
    query = sa.select(changes.c.user_id).where(changes.c.kind == kind).order_by(changes.c.user_id).limit(limit)
    return list(state.execute(query).scalars())


def must_hold(difference: Difference, size: int, guard: float | None) -> str | None:
    """Why this change is a surprise (DESIGN, rule 8), or None. A first sync is never asked."""
    if difference.before > 0 and size == 0 and guard is not None:
        return f"all {difference.before:,} would leave"
    if guard is not None and difference.before > 1000 and difference.total > guard * difference.before:
        share = difference.total / difference.before
        return f"{difference.total:,} changes on {difference.before:,} ({share:.0%}; the guard is {guard:.0%})"
    return None
